"""Nodes for ComfyUI: `Refine mask` and `Mask from phrase`.

Copy this file into ComfyUI's folder `custom_nodes`, after `pip install "segrefine[cpu]"` in ComfyUI's environment.
ComfyUI gives pictures as tensors (B, H, W, 3) and masks as tensors (B, H, W), float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import ImageError, MaskError, SettingsError
from segrefine.integrations.masks import Bundles, MaskMaker
from segrefine.presets import PRESETS
from segrefine.runtime.files.image import as_image
from segrefine.runtime.files.mask import as_mask

_MAKERS: dict[Bundles, MaskMaker] = {}
"""Open models: a workflow runs its nodes again and again."""
_SEED = ("INT", {"default": 0, "min": 0, "max": 2**32 - 1})
_PRESETS = ("default", *(name for name in PRESETS["g4seg"] if name != "default"))
_CATEGORY = "mask/segrefine"


class RefineMask:
    """The node `Refine mask`: a picture and a coarse mask in, a sharp mask out."""

    CATEGORY, FUNCTION = _CATEGORY, "refine"
    RETURN_TYPES, RETURN_NAMES = ("MASK", "MASK"), ("mask", "probability")
    DESCRIPTION = "Refine a coarse mask with a diffusion model. The label says what the mask shows."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "image": ("IMAGE",), "mask": ("MASK",), "label": ("STRING", {"default": "fox"}),
                "bundle": ("STRING", {"default": "photo"}), "preset": (list(_PRESETS),), "seed": _SEED,
                "guard": ("BOOLEAN", {"default": True}),
            },
        }  # fmt: skip

    def refine(
        self, image: Any, mask: Any, label: str, bundle: str = "photo", preset: str = "default", seed: int = 0,
        guard: bool = True,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The mask of 0 and 1, and the probability; both tensors (B, H, W).

        Raises:
            ImageError: the images cannot be used.
            MaskError: a mask cannot be used, or there is not one for each image, or one for all.
            SettingsError: there is no such preset.
        """
        _check_preset(preset)
        maker, pixels = _maker_of(Bundles(refine=bundle)), list(_images_of(image))
        masks = list(_masks_of(mask))
        if len(masks) not in (1, len(pixels)):
            expected = f"one mask, or one for each of {len(pixels)} images"
            raise MaskError(expected=expected, got=f"{len(masks)} masks", hint="use batches of one length")
        results = []
        for number, each in enumerate(pixels):
            coarse = masks[number if len(masks) > 1 else 0]
            [result] = maker.refine(each, [(label, coarse)], preset=preset, seed=seed, guard=guard)
            results.append(result)
        return _like(mask, [each.mask for each in results]), _like(mask, [each.probability for each in results])


class MaskFromPhrase:
    """The node `Mask from phrase`: a picture and a phrase in, a mask out."""

    CATEGORY, FUNCTION = _CATEGORY, "find"
    RETURN_TYPES, RETURN_NAMES = ("MASK", "MASK"), ("mask", "probability")
    DESCRIPTION = "Find what a phrase names. The bundle finds phrases, or refines and finds them zero-shot."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "image": ("IMAGE",), "phrase": ("STRING", {"default": "the cat"}),
                "bundle": ("STRING", {"default": "photo-gs"}), "seed": _SEED,
            },
        }  # fmt: skip

    def find(self, image: Any, phrase: str, bundle: str = "photo-gs", seed: int = 0) -> tuple[Any, Any]:
        """The mask of 0 and 1, and the probability; both tensors (B, H, W). A mask is empty where nothing is found.

        Raises:
            ImageError: the images cannot be used.
            PromptError: the phrase is empty or too long.
        """
        maker = _maker_of(Bundles.of(bundle))
        found: list[Any] = [maker.find(each, [phrase], seed=seed)[0] for each in _images_of(image)]
        return _like(image, [each.mask for each in found]), _like(image, [each.probability for each in found])


NODE_CLASS_MAPPINGS: dict[str, type] = {"SegrefineRefineMask": RefineMask, "SegrefineMaskFromPhrase": MaskFromPhrase}
NODE_DISPLAY_NAME_MAPPINGS = {"SegrefineRefineMask": "Refine mask", "SegrefineMaskFromPhrase": "Mask from phrase"}


def _maker_of(bundles: Bundles) -> MaskMaker:
    if bundles not in _MAKERS:
        _MAKERS[bundles] = MaskMaker(bundles)
    return _MAKERS[bundles]


def _check_preset(name: str) -> None:
    if name not in _PRESETS:
        hint = "choose one of them in the node"
        raise SettingsError(subject="preset", expected=", ".join(_PRESETS), got=repr(name), hint=hint)


def _images_of(tensor: Any) -> Iterator[NDArray[np.uint8]]:
    """The images, uint8 (H, W, 3), of a batch."""
    array = np.asarray(tensor.detach().cpu(), np.float32)
    if array.ndim != 4:
        raise ImageError(expected="a batch of images (B, H, W, 3)", got=f"a tensor of shape {array.shape}")
    for each in array:
        yield as_image(each.clip(0, 1))


def _masks_of(tensor: Any) -> Iterator[NDArray[np.float32]]:
    """The masks, float32 (H, W), of a batch, or of one that comes alone."""
    array = np.asarray(tensor.detach().cpu(), np.float32)
    if array.ndim not in (2, 3):
        raise MaskError(expected="a batch of masks (B, H, W)", got=f"a tensor of shape {array.shape}")
    for each in array if array.ndim == 3 else array[None]:
        yield as_mask(each)


def _like(tensor: Any, arrays: list[NDArray[Any]]) -> Any:
    """Maps (H, W) as one tensor (B, H, W), of the same kind as another."""
    return tensor.new_tensor(np.stack(arrays).astype(np.float32))
