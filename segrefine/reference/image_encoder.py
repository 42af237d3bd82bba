"""An image encoder made of a classification network: features of four scales on one grid, in place of latents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn

LITE0 = (
    (16, 1, 1, 3, 1), (24, 2, 2, 3, 6), (40, 2, 2, 5, 6), (80, 3, 2, 3, 6), (112, 3, 1, 5, 6), (192, 4, 2, 5, 6),
    (320, 1, 1, 3, 6),
)  # fmt: skip
"""EfficientNet-Lite0: channels, blocks, stride, kernel and expansion of each stage, after a stem of stride 2."""
_GROUPS = 8


class FeatureEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Image (B, 3, H, W) in [-1, 1] → features (B, latent_channels, H/8, W/8) of mean 0 and spread 1.

    The body is EfficientNet-Lite (MBConv blocks of arXiv 1801.04381 with ReLU6). Its features of strides 32, 16 and 8
    are joined from the top down (arXiv 1612.03144). Those of stride 4 are folded in, for sharp borders.

    Args:
        in_channels: channels of the image.
        stem: channels after the first convolution.
        stages: of the body; see `LITE0`.
        width: channels in which scales are joined.
        latent_channels: channels of the result.
        scale_factor: image pixels per cell along one side: 8.
        scaling_factor: factor on the result, as image codecs have one.
        normalised: whether convolutions have a normalisation of their own, as in training. See `folded`.
        decoder_width: channels of the decoder, which text-to-image models need; 0 for none.

    Raises:
        ValueError: the stages lack one of the strides, or cells have another size.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 3,
        stem: int = 32,
        stages: Sequence[Sequence[int]] = LITE0,
        width: int = 96,
        latent_channels: int = 48,
        scale_factor: int = 8,
        scaling_factor: float = 1.0,
        normalised: bool = True,
        decoder_width: int = 0,
    ) -> None:
        super().__init__()
        self.first = _Convolution(in_channels, stem, 3, 2, normalised=normalised)
        self.body = nn.ModuleList()
        scales: dict[int, int] = {}
        inner, stride = stem, 2
        for outer, count, step, kernel, expansion in stages:
            stride *= step
            blocks = nn.Sequential()
            for number in range(count):
                first = number == 0
                sizes = inner if first else outer, outer, kernel, step if first else 1
                blocks.append(_MbConv(*sizes, expansion=expansion, normalised=normalised))
            self.body.append(blocks)
            scales[stride] = inner = outer  # the last stage of each stride
        if scale_factor != 8 or not {4, 8, 16, 32} <= scales.keys():
            raise ValueError("stages of the strides 4, 8, 16 and 32 are needed, and a scale_factor of 8")
        self.laterals = nn.ModuleDict({str(each): nn.Conv2d(scales[each], width, 1) for each in (8, 16, 32)})
        self.details = nn.Conv2d(4 * scales[4], width, 1)
        self.join = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.GroupNorm(_GROUPS, width), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Conv2d(width, latent_channels, 3, padding=1), nn.GroupNorm(_GROUPS, latent_channels, affine=False)
        )  # fmt: skip
        if decoder_width:
            self.decoder = _new_decoder(latent_channels, decoder_width, in_channels)

    def forward(self, image: Tensor) -> Tensor:
        """The features of images; H and W are multiples of 8."""
        features = self._scales(image)
        joined = self.laterals["32"](features[32])
        for stride in (16, 8):
            lateral = self.laterals[str(stride)](features[stride])
            height, width = lateral.shape[2:]
            joined = lateral + F.interpolate(joined, scale_factor=2.0, mode="nearest")[:, :, :height, :width]
        details = self.details(F.pixel_unshuffle(features[4], 2))
        result: Tensor = self.out(self.join(torch.cat([joined, details], 1)))
        return result * float(self.config.scaling_factor)

    def decode(self, features: Tensor) -> DecoderOutput:
        """Images (B, 3, 8h, 8w) in about [-1, 1] that features (B, latent_channels, h, w) are of: a rough picture."""
        return DecoderOutput(sample=self.decoder(features / float(self.config.scaling_factor)))

    def folded(self) -> FeatureEncoder:
        """The same encoder with each normalisation folded into its convolution.

        Graphs of it then hold the numbers that a checkpoint holds, in half precision too.
        """
        result: FeatureEncoder = FeatureEncoder.from_config(self.config, normalised=False)
        state = self.state_dict()
        for name, part in self.named_modules():
            if isinstance(part, _Convolution) and isinstance(part.norm, nn.BatchNorm2d):
                norm = part.norm
                assert norm.running_mean is not None and norm.running_var is not None
                factor = norm.weight / (norm.running_var + norm.eps).sqrt()
                state[f"{name}.conv.weight"] = part.conv.weight * factor[:, None, None, None]
                state[f"{name}.conv.bias"] = norm.bias - norm.running_mean * factor
        result.load_state_dict({name: state[name] for name in result.state_dict()})
        result.train(self.training)
        return result

    def _scales(self, image: Tensor) -> dict[int, Tensor]:
        """The last features of each stride."""
        values, stride, found = self.first(image), 2, {}
        for stage, (_, _, step, _, _) in zip(self.body, self.config.stages, strict=True):
            values = stage(values)
            stride *= step
            found[stride] = values
        return found


def _new_decoder(inner: int, width: int, outer: int) -> nn.Sequential:
    """Three times twice as large, by nearest neighbours and a convolution."""
    layers: list[nn.Module] = [nn.Conv2d(inner, width, 3, padding=1), nn.SiLU()]
    for _ in range(3):
        layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width // 2, 3, padding=1), nn.SiLU()]
        width //= 2
    return nn.Sequential(*layers, nn.Conv2d(width, outer, 3, padding=1))


class _Convolution(nn.Sequential):
    """A convolution, its frozen normalisation, and ReLU6 unless it is left out."""

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: int,
        stride: int = 1,
        *,
        normalised: bool,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        # at a stride of 2 TensorFlow pads even sides by one row less before than after; a row too many is not read
        before = (kernel - 1) // 2 if stride == 1 else (kernel - 2) // 2
        after = (kernel - 1) // 2 if stride == 1 else kernel - 1 - before
        super().__init__()
        self.pad = nn.ZeroPad2d((before, after, before, after))
        self.conv = nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=not normalised)
        self.norm = _FrozenNorm(outer, eps=1e-3) if normalised else nn.Identity()
        self.activation = nn.ReLU6() if active else nn.Identity()


class _FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics that it was trained with: batches here are too small for new ones."""

    def forward(self, values: Tensor) -> Tensor:
        """The values, normalised; in training too, nothing is counted."""
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(values, mean, variance, self.weight, self.bias, training=False, eps=self.eps)


class _MbConv(nn.Module):
    """An inverted residual block: widen, filter each channel, narrow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, *, expansion: int, normalised: bool) -> None:
        super().__init__()
        wide, make = inner * expansion, partial(_Convolution, normalised=normalised)
        self.expand = make(inner, wide, 1) if expansion > 1 else nn.Identity()
        self.filter = make(wide, wide, kernel, stride, groups=wide)
        self.project = make(wide, outer, 1, active=False)
        self._adds = stride == 1 and inner == outer

    def forward(self, values: Tensor) -> Tensor:
        """The block's result, with its input added where both have one shape."""
        result: Tensor = self.project(self.filter(self.expand(values)))
        return values + result if self._adds else result
