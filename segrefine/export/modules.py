"""The checkpoint's parts as modules over plain tensors, named and shaped as their specification says.

Every graph takes and gives float32, whatever precision it computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from segrefine.export import ops
from segrefine.reference.alignment import align
from segrefine.reference.attention import MaskInjection, MaskInjector
from segrefine.reference.checkpoint import Checkpoint, LabelCheckpoint, Parts
from segrefine.reference.features import combine_features, extract_features, tap_outputs
from segrefine.spec import ComponentSpec, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the graphs are made from.

    Attributes:
        checkpoint: the model, its UNet injected with `ops.masked_attention`.
        injector: the switch of that UNet's mask injection.
        taps: named submodules of the UNet whose outputs are the features.
    """

    checkpoint: Checkpoint
    injector: MaskInjector
    taps: tuple[str, ...]


class GraphModule(nn.Module):
    """A module that becomes one graph.

    Attributes:
        spec: what the graph takes and gives, in the order of `forward`.
        file: path of the graph in the bundle.
        limits: for each int64 input the number of values that it can have.
        island: the module stays in float32 in a half-precision export, where it would overflow.
    """

    spec: ComponentSpec
    file: str
    limits: Mapping[str, int] = {}
    island: bool = False


class TextEncoder(GraphModule):
    """Token ids → states."""

    file = "text_encoder/model.onnx"

    def __init__(self, checkpoint: Parts) -> None:
        super().__init__()
        self.encoder = checkpoint.text_encoder
        config = self.encoder.config
        self.limits = {"input_ids": config.vocab_size}
        self.spec = ComponentSpec(
            "text_encoder",
            (TensorSpec("input_ids", "int64", ("batch", "tokens")),),
            (_float("last_hidden_state", "batch", "tokens", config.hidden_size),),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        """States (batch, tokens, hidden)."""
        states: Tensor = self.encoder(input_ids).last_hidden_state
        return states.float()


class VaeEncoder(GraphModule):
    """Image → latents: the posterior's mean, scaled."""

    file = "vae_encoder/model.onnx"
    island = True

    def __init__(self, checkpoint: Parts) -> None:
        super().__init__()
        self.vae = checkpoint.vae
        self.spec = ComponentSpec("vae_encoder", (_image("sample", self.vae),), (_latent("latent_sample", self.vae),))

    def forward(self, sample: Tensor) -> Tensor:
        """Latents (batch, C, height, width)."""
        latents: Tensor = self.vae.encode(sample).latent_dist.mean * self.vae.config.scaling_factor
        return latents


class VaeDecoder(GraphModule):
    """Scaled latents → image."""

    file = "vae_decoder/model.onnx"
    island = True

    def __init__(self, checkpoint: Parts) -> None:
        super().__init__()
        self.vae = checkpoint.vae
        self.spec = ComponentSpec("vae_decoder", (_latent("latent_sample", self.vae),), (_image("sample", self.vae),))

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Image (batch, 3, image_height, image_width) in about [-1, 1]."""
        image: Tensor = self.vae.decode(latent_sample / self.vae.config.scaling_factor).sample
        return image


class MaskedUnet(GraphModule):
    """Denoiser with mask injection, and the features on its way.

    Args:
        source: what the graph is made from.
        truncated: gives the features alone; what only the prediction needs is left out of the graph.
    """

    def __init__(self, source: Source, *, truncated: bool = False) -> None:
        super().__init__()
        self.unet, self.injector, self.taps = source.checkpoint.unet, source.injector, source.taps
        self.truncated = truncated
        config = self.unet.config
        self.file = "unet/features.onnx" if truncated else "unet/model.onnx"
        self.limits = {"timestep": source.checkpoint.scheduler_config.get("num_train_timesteps", 1000)}
        inputs = (
            _float("sample", "batch", config.in_channels, "height", "width"),
            TensorSpec("timestep", "int64", ("batch",)),
            _float("encoder_hidden_states", "batch", "tokens", config.cross_attention_dim),
            _float("foreground", "batch", 1, "height", "width"),
            _float("token_indicator", "batch", "tokens", 2),
            _float("strength", "batch", 2),
        )
        out_sample = _float("out_sample", "batch", config.out_channels, "height", "width")
        features = _float("features", "batch", "pixels", feature_channels(source))
        if truncated:
            self.spec = ComponentSpec("unet_features", inputs, (features,))
        else:
            self.spec = ComponentSpec("unet", inputs, (out_sample, features))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        foreground: Tensor,
        token_indicator: Tensor,
        strength: Tensor,
    ) -> tuple[Tensor, ...]:
        """Prediction (batch, C, height, width), unless truncated, and features (batch, pixels, channels)."""
        injection = MaskInjection(foreground=foreground, token_indicator=token_indicator, strength=strength)
        dtype = self.unet.conv_in.weight.dtype
        with self.injector.apply(injection), tap_outputs(self.unet, self.taps) as maps:
            out_sample = self.unet(sample.to(dtype), timestep, encoder_hidden_states.to(dtype)).sample
        features = combine_features(maps, sample.shape[-2:])
        return (features,) if self.truncated else (out_sample.float(), features)


class Alignment(GraphModule):
    """Original and generated features → discrepancy and new probability."""

    file = "alignment/model.onnx"
    island = True

    def __init__(self, source: Source) -> None:
        super().__init__()
        channels = feature_channels(source)
        self.spec = ComponentSpec(
            "alignment",
            (
                _float("features_original", "batch", "pixels", channels),
                _float("features_generated", "batch", "pixels", channels),
                _float("foreground", "batch", 1, "height", "width"),
                _float("evidence", "batch", 1, "height", "width"),
                _float("parameters", "batch", 4),
            ),
            tuple(_float(name, "batch", 1, "height", "width") for name in ("discrepancy", "estimate", "probability")),
        )

    def forward(
        self,
        features_original: Tensor,
        features_generated: Tensor,
        foreground: Tensor,
        evidence: Tensor,
        parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        """Discrepancy, estimate and updated probability, each (batch, 1, height, width)."""
        return align(
            features_original, features_generated, foreground, evidence, parameters, hausdorff=ops.pixel_hausdorff
        )


class LabelDenoiser(GraphModule):
    """Denoiser of label latents, given the image's."""

    file = "label_denoiser/model.onnx"

    def __init__(self, checkpoint: LabelCheckpoint) -> None:
        super().__init__()
        self.unet = checkpoint.label_denoiser
        config, labels = self.unet.config, checkpoint.codec.channels
        self.limits = {"timestep": checkpoint.scheduler_config.get("num_train_timesteps", 1000)}
        self.spec = ComponentSpec(
            "label_denoiser",
            (
                _float("sample", "batch", labels, "height", "width"),
                _float("image_latents", "batch", config.in_channels - labels, "height", "width"),
                TensorSpec("timestep", "int64", ("batch",)),
                _float("encoder_hidden_states", "batch", "tokens", config.cross_attention_dim),
            ),
            (_float("out_sample", "batch", labels, "height", "width"),),
        )

    def forward(self, sample: Tensor, image_latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Prediction (batch, C, height, width)."""
        dtype = self.unet.conv_in.weight.dtype
        joined = torch.cat([sample, image_latents], 1).to(dtype)
        out_sample: Tensor = self.unet(joined, timestep, encoder_hidden_states.to(dtype)).sample
        return out_sample.float()


GRAPHS: dict[str, Callable[[Source], GraphModule]] = {
    "text_encoder": lambda source: TextEncoder(source.checkpoint),
    "vae_encoder": lambda source: VaeEncoder(source.checkpoint),
    "vae_decoder": lambda source: VaeDecoder(source.checkpoint),
    "unet": MaskedUnet,
    "unet_features": partial(MaskedUnet, truncated=True),
    "alignment": Alignment,
}
"""The components of a text-to-image model's bundle, in the order in which they are exported."""

LABEL_GRAPHS: dict[str, Callable[[LabelCheckpoint], GraphModule]] = {
    "text_encoder": TextEncoder,
    "vae_encoder": VaeEncoder,
    "vae_decoder": VaeDecoder,
    "label_denoiser": LabelDenoiser,
}
"""The components of a label diffusion model's bundle."""


def feature_channels(source: Source) -> int:
    """The number of channels of the features that the taps give."""
    config = source.checkpoint.unet.config
    sample = torch.zeros(1, config.in_channels, 8, 8)
    states = torch.zeros(1, 1, config.cross_attention_dim)
    features = extract_features(source.checkpoint.unet, sample, torch.zeros(1).long(), states, source.taps)
    return features.shape[2]


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _image(name: str, vae: AutoencoderKL) -> TensorSpec:
    return _float(name, "batch", vae.config.in_channels, "image_height", "image_width")


def _latent(name: str, vae: AutoencoderKL) -> TensorSpec:
    return _float(name, "batch", vae.config.latent_channels, "height", "width")
