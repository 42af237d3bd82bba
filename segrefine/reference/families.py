"""The families of models, and what each needs that others do not. Adding a family is adding a row to `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segrefine.errors import ExportError

GUIDANCE_EMBEDDED = 7.5
"""The guidance that a consistency model is told, if it was distilled to be told one (LCM, arXiv 2310.04378)."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderKind:
    """One text encoder of a family.

    Attributes:
        part: its folder in a checkpoint.
        tokenizer: the folder of its tokenizer.
        hidden_layer: the entry of the encoder's `hidden_states` that the denoiser reads; None is the last one, after
            the final normalisation.
        pooled: its projected sentence state is given to the denoiser as well.
    """

    part: str = "text_encoder"
    tokenizer: str = "tokenizer"
    hidden_layer: int | None = None
    pooled: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """Common properties of the checkpoints of one family.

    Attributes:
        name: what people call it.
        addition: `addition_embed_type` of its denoiser: None, or "text_time" where that takes the pooled text and the
            image's size.
        text_encoders: in the order in which their states are joined.
        taps: submodules of the UNet whose outputs are good features: where its maps are a quarter of the latents' side,
            on the way up, as DIFT (arXiv 2306.03881) found for Stable Diffusion.
        settings: values of G4Seg's settings to start from, where the literature has any; `segrefine tune` fits more.
    """

    name: str
    addition: str | None
    text_encoders: tuple[TextEncoderKind, ...]
    taps: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = (
    # 1.x, 2.x in both prediction types, their Turbo and LCM: hidden width and last layer are in the configurations
    Family(
        name="Stable Diffusion 1.x or 2.x",
        addition=None,
        text_encoders=(TextEncoderKind(),),
        taps=("up_blocks.1.attentions.0",),
        # DIFT (arXiv 2306.03881): t = 261 for semantic correspondence, on Stable Diffusion 2.1
        settings={"feature_timestep": 261},
    ),
    # pruned ones too (SSD-1B, Segmind Vega), Turbo and LCM
    Family(
        name="Stable Diffusion XL",
        addition="text_time",
        text_encoders=(
            TextEncoderKind(hidden_layer=-2),
            TextEncoderKind(
                part="text_encoder_2",
                tokenizer="tokenizer_2",
                hidden_layer=-2,
                pooled=True,
            ),
        ),
        taps=("up_blocks.0.attentions.0",),
    ),
)


def find_family(denoiser: Mapping[str, Any], model_index: Mapping[str, Any]) -> Family:
    """The family of a checkpoint.

    Args:
        denoiser: the denoiser's configuration.
        model_index: the content of `model_index.json`.

    Raises:
        ExportError: it is of no family in `FAMILIES`.
    """
    addition = denoiser.get("addition_embed_type")
    strange = {name: denoiser.get(name) for name in ("class_embed_type", "encoder_hid_dim_type")}
    strange = {name: value for name, value in strange.items() if value is not None}
    known = ", ".join(family.name for family in FAMILIES)
    for family in FAMILIES:
        if family.addition == addition and not strange:
            _check_encoders(family, model_index)
            return family
    found = strange or {"addition_embed_type": addition}
    setting, value = next(iter(found.items()))
    raise ExportError(f"unknown architecture: the denoiser has {setting} {value!r}", hint=f"segrefine knows {known}")


def _check_encoders(family: Family, model_index: Mapping[str, Any]) -> None:
    """Raises ExportError where the model has other text encoders than its family."""
    wanted = {kind.part for kind in family.text_encoders}
    # model_index.json lists a part that is left out as [null, null]
    found = {name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if (model_index.get(name) or [0])[0]}
    if model_index.get("_class_name") and found and found != wanted:
        hint = "of Stable Diffusion XL the base model is meant, not the refiner" if "text_encoder_2" in found else None
        raise ExportError(
            f"the model has {' and '.join(sorted(found))}, and {family.name} has {' and '.join(sorted(wanted))}",
            hint=hint or "give the whole model",
        )
