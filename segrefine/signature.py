"""Tensors of the methods for Triton and KServe. The first axis of every tensor, the batch, is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segrefine.bundle import Method


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: of the tensor.
        data_type: Triton's name of it, without `TYPE_`.
        dims: -1 is any.
        optional: requests may leave it out.
        ragged: requests with another size of it may be computed together.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class Signature:
    """The tensors of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


_IMAGE = Tensor("image", "UINT8", (-1, -1, 3))
_SEED = Tensor("seed", "INT64", (1,), optional=True)

SIGNATURES: Mapping[Method, Signature] = {
    "g4seg": Signature(
        (_IMAGE, Tensor("mask", "FP32", (-1, -1, -1)), Tensor("label", "STRING", (-1,)), _SEED),
        (Tensor("mask", "BOOL", (-1, -1, -1)), Tensor("probability", "FP32", (-1, -1, -1))),
    ),
    "gs": Signature(
        (
            _IMAGE,
            Tensor("phrases", "STRING", (-1,), optional=True, ragged=True),
            Tensor("caption", "STRING", (1,), optional=True),
            _SEED,
        ),
        (
            Tensor("masks", "BOOL", (-1, -1, -1)),
            Tensor("probabilities", "FP32", (-1, -1, -1)),
            Tensor("uncertainty", "FP32", (-1, -1, -1)),
        ),
    ),
}
"""By method. image: RGB (H, W, 3). Masks and maps are at the image's size, with the labels or phrases in front.

caption: instead of phrases, a sentence whose noun phrases they are; square brackets mark them."""
