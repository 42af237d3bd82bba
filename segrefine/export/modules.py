"""The checkpoint's parts as modules over plain tensors, named and shaped as their specification says.

Every graph takes and gives float32, whatever precision it computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from segrefine.export import ops
from segrefine.reference.alignment import align
from segrefine.reference.attention import Attend, MaskInjection, MaskInjector, inject_masks
from segrefine.reference.attention_maps import AttentionRecord, find_map_levels, has_map_levels
from segrefine.reference.checkpoint import Checkpoint, LabelCheckpoint, ModelParts
from segrefine.reference.features import combine_features, tap_outputs
from segrefine.reference.latents import encode_image, unscale_latents
from segrefine.reference.text import encode_ids, predict
from segrefine.spec import ComponentSpec, TensorSpec


@dataclass(frozen=True, kw_only=True)
class GraphSource:
    """Source of the graphs of a text-to-image model.

    Attributes:
        checkpoint: the model.
        attend: the attention of its UNet while masks are injected.
        taps: named submodules of the UNet whose outputs are the features.
    """

    checkpoint: Checkpoint
    attend: Attend
    taps: tuple[str, ...]

    @cached_property
    def injector(self) -> MaskInjector:
        """The switch of the UNet's mask injection."""
        return inject_masks(self.checkpoint.unet, self.attend)

    @cached_property
    def feature_channels(self) -> int:
        """The number of channels of the features that the taps give; reads no weights."""
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(self.checkpoint.configs["unet"])
            text = {
                tensor.name: torch.empty([1 if isinstance(size, str) else size for size in tensor.shape])
                for tensor in text_inputs(self.checkpoint, "unet")
            }
            with tap_outputs(unet, self.taps) as maps:
                predict(unet, torch.empty(1, unet.config.in_channels, 8, 8), torch.empty(1).long(), text)
        return sum(tapped.shape[1] for tapped in maps.values())


class GraphModule(nn.Module):
    """A module that becomes one graph.

    Attributes:
        spec: what the graph takes and gives, in the order of `forward`.
        file: path of the graph in the bundle.
        limits: for each int64 input the number of values that it can have.
        compute_dtype: what it computes in, whatever its inputs are.
        added: names of the last inputs, those that not every family has; `forward` takes them as `*added`.
    """

    spec: ComponentSpec
    file: str
    limits: Mapping[str, int] = {}
    compute_dtype: torch.dtype = torch.float32
    added: tuple[str, ...] = ()


class TextEncoderGraph(GraphModule):
    """Token ids → states, and the pooled text where the family's denoiser is told of it."""

    def __init__(self, checkpoint: ModelParts, part: str = "text_encoder") -> None:
        super().__init__()
        self.kind = next(kind for kind in checkpoint.family.text_encoders if kind.part == part)
        self.encoder, self.file = checkpoint.load(part), f"{part}/model.onnx"
        config: Any = self.encoder.config
        self.limits = {"input_ids": config.vocab_size}
        states = "last_hidden_state" if self.kind.hidden_layer is None else "hidden_states"
        pooled = (_float("text_embeds", "batch", config.projection_dim),) if self.kind.pooled else ()
        self.spec = ComponentSpec(
            part,
            (TensorSpec("input_ids", "int64", ("batch", "tokens")),),
            (_float(states, "batch", "tokens", config.hidden_size), *pooled),
        )

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """States (batch, tokens, hidden), and the pooled text (batch, width) if the spec has it."""
        states, pooled = encode_ids(self.encoder, self.kind, input_ids)
        return (states.float(),) if pooled is None else (states.float(), pooled.float())


class VaeEncoder(GraphModule):
    """Image → latents, as the denoiser takes them."""

    file = "vae_encoder/model.onnx"

    def __init__(self, checkpoint: ModelParts) -> None:
        super().__init__()
        self.vae = checkpoint.vae
        self.spec = ComponentSpec("vae_encoder", (_image("sample", self.vae),), (_latent("latent_sample", self.vae),))

    def forward(self, sample: Tensor) -> Tensor:
        """Latents (batch, C, height, width)."""
        return encode_image(self.vae, sample)


class VaeDecoder(GraphModule):
    """Scaled latents → image."""

    file = "vae_decoder/model.onnx"

    def __init__(self, checkpoint: ModelParts) -> None:
        super().__init__()
        self.vae = checkpoint.vae
        self.spec = ComponentSpec("vae_decoder", (_latent("latent_sample", self.vae),), (_image("sample", self.vae),))

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Image (batch, 3, image_height, image_width) in about [-1, 1]."""
        image: Tensor = self.vae.decode(unscale_latents(self.vae, latent_sample)).sample
        return image


class MaskedUnet(GraphModule):
    """Denoiser with mask injection, and what can be seen on its way: features, and where it looks.

    Args:
        source: what the graph is made from.
        name: of the component, see `UNETS`. What its outputs do not need is left out of the graph.
    """

    def __init__(self, source: GraphSource, name: str) -> None:
        super().__init__()
        checkpoint = source.checkpoint
        self.unet, self.injector, self.taps = checkpoint.unet, source.injector, source.taps
        config = self.unet.config
        self.file, gives = UNETS[name]
        attends = "word_attention" in gives and (name != WHOLE_UNET or has_map_levels(config))
        self.levels = find_map_levels(config) if attends else None
        self.limits = {"timestep": checkpoint.scheduler_config.get("num_train_timesteps", 1000)}
        states, *added = text_inputs(checkpoint, "unet")
        self.added = tuple(tensor.name for tensor in added)
        inputs = (
            _float("sample", "batch", config.in_channels, "height", "width"),
            TensorSpec("timestep", "int64", ("batch",)),
            states,
            _float("foreground", "batch", 1, "height", "width"),
            _float("token_indicator", "batch", "tokens", 2),
            _float("strength", "batch", 2),
            *added,
        )
        known = {
            "out_sample": ("batch", config.out_channels, "height", "width"),
            "features": ("batch", "pixels", source.feature_channels),
        }
        if self.levels:
            known |= {
                "word_attention": ("batch", "rows", "columns"),
                "self_attention": ("batch", "places", "places"),
            }
        self.spec = ComponentSpec(name, inputs, tuple(_float(each, *known[each]) for each in gives if each in known))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        foreground: Tensor,
        token_indicator: Tensor,
        strength: Tensor,
        *added: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the outputs of the component in their order; `AttentionRecord.maps` explains the attention."""
        injection = MaskInjection(foreground=foreground, token_indicator=token_indicator, strength=strength)
        text = {"encoder_hidden_states": encoder_hidden_states.to(self.compute_dtype)}
        text |= zip(self.added, added, strict=True)
        record = AttentionRecord(levels=self.levels, depth=len(self.unet.down_blocks)) if self.levels else None
        with self.injector.apply(injection, record), tap_outputs(self.unet, self.taps) as maps:
            out_sample = predict(self.unet, sample.to(self.compute_dtype), timestep, text)
        found = {"out_sample": out_sample.float(), "features": combine_features(maps, sample.shape[-2:])}
        if record:
            found |= zip(("word_attention", "self_attention"), record.maps(sample.shape[-2:]), strict=True)
        return tuple(found[tensor.name] for tensor in self.spec.outputs)


class Alignment(GraphModule):
    """Original and generated features → discrepancy and new probability."""

    file = "alignment/model.onnx"

    def __init__(self, source: GraphSource) -> None:
        super().__init__()
        channels = source.feature_channels
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
        text = text_inputs(checkpoint, "label_denoiser")
        self.added = tuple(tensor.name for tensor in text[1:])
        self.spec = ComponentSpec(
            "label_denoiser",
            (
                _float("sample", "batch", labels, "height", "width"),
                _float("image_latents", "batch", config.in_channels - labels, "height", "width"),
                TensorSpec("timestep", "int64", ("batch",)),
                *text,
            ),
            (_float("out_sample", "batch", labels, "height", "width"),),
        )

    def forward(
        self, sample: Tensor, image_latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *added: Tensor
    ) -> Tensor:
        """Prediction (batch, C, height, width)."""
        joined = torch.cat([sample, image_latents], 1).to(self.compute_dtype)
        text = {"encoder_hidden_states": encoder_hidden_states.to(self.compute_dtype)}
        text |= zip(self.added, added, strict=True)
        return predict(self.unet, joined, timestep, text).float()


WHOLE_UNET = "unet_whole"
UNETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    WHOLE_UNET: ("unet/whole.onnx", ("out_sample", "features", "word_attention", "self_attention")),
    "unet": ("unet/model.onnx", ("out_sample", "features")),
    "unet_features": ("unet/features.onnx", ("features",)),
    "unet_attention": ("unet/attention.onnx", ("word_attention", "self_attention")),
}
"""The components that are parts of the UNet: file of the graph, and outputs. The whole is traced once, and cut."""

GRAPHS: dict[str, Callable[[GraphSource], GraphModule]] = {
    "text_encoder": lambda source: TextEncoderGraph(source.checkpoint),
    "text_encoder_2": lambda source: TextEncoderGraph(source.checkpoint, "text_encoder_2"),
    "vae_encoder": lambda source: VaeEncoder(source.checkpoint),
    "vae_decoder": lambda source: VaeDecoder(source.checkpoint),
    "unet": partial(MaskedUnet, name="unet"),
    "unet_features": partial(MaskedUnet, name="unet_features"),
    "unet_attention": partial(MaskedUnet, name="unet_attention"),
    "alignment": Alignment,
}
"""The components of a text-to-image model's bundle, in the order in which they are exported."""

LABEL_GRAPHS: dict[str, Callable[[LabelCheckpoint], GraphModule]] = {
    "text_encoder": TextEncoderGraph,
    "text_encoder_2": partial(TextEncoderGraph, part="text_encoder_2"),
    "vae_encoder": VaeEncoder,
    "vae_decoder": VaeDecoder,
    "label_denoiser": LabelDenoiser,
}
"""The components of a label diffusion model's bundle."""

ISLANDS = ("vae_encoder", "vae_decoder", "alignment")
"""Components that stay in float32 in a half-precision export, where they would overflow."""

PARTS: Mapping[str, str] = {"vae_encoder": "vae", "vae_decoder": "vae", **dict.fromkeys(UNETS, "unet")}
"""The part of a checkpoint that a component is made of, where that has another name."""


def has_graph(name: str, text_encoders: Collection[str]) -> bool:
    """Return whether a model with these text encoders has a component of this name."""
    return not name.startswith("text_encoder") or name in text_encoders


def text_inputs(checkpoint: ModelParts, denoiser: str) -> tuple[TensorSpec, ...]:
    """Return the denoiser's inputs for a text, by name; see `segrefine.reference.text`."""
    config = checkpoint.configs[denoiser]
    states = _float("encoder_hidden_states", "batch", "tokens", config["cross_attention_dim"])
    if checkpoint.family.addition != "text_time":
        return (states,)
    sizes = 6
    width = config["projection_class_embeddings_input_dim"] - sizes * config["addition_time_embed_dim"]
    return states, _float("text_embeds", "batch", width), _float("time_ids", "batch", sizes)


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def _image(name: str, vae: AutoencoderKL) -> TensorSpec:
    return _float(name, "batch", vae.config.in_channels, "image_height", "image_width")


def _latent(name: str, vae: AutoencoderKL) -> TensorSpec:
    return _float(name, "batch", vae.config.latent_channels, "height", "width")
