"""The nodes as ComfyUI loads and calls them: one file in `custom_nodes`, tensors in, tensors out."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import segrefine.integrations.comfyui as source
from segrefine import Refiner, Segmenter
from segrefine.errors import BundleError, MaskError, PromptError, SettingsError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import read_mask
from tests.integrations.studio import NAME, coarse_of, image_of

NAMES = {"SegrefineRefineMask": "Refine mask", "SegrefineMaskFromPhrase": "Mask from phrase"}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The file, loaded from a folder by its path and under its path as its name, which is what ComfyUI does."""
    file = tmp_path_factory.mktemp("custom_nodes") / "segrefine_nodes.py"
    shutil.copyfile(Path(source.__file__), file)
    name = str(file.with_suffix(""))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255)[None]


IMAGE = as_tensor(load_image(image_of()))
MASK = torch.from_numpy(coarse_of().astype(np.float32))[None]


def test_every_node_says_what_it_takes_and_gives(nodes):
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS == NAMES and nodes.NODE_CLASS_MAPPINGS.keys() == NAMES.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()["required"]
        kinds = {"IMAGE", "MASK", "STRING", "INT", "BOOLEAN"}
        assert all(isinstance(each[0], list) or each[0] in kinds for each in inputs.values())
        assert set(node.RETURN_TYPES) == {"MASK"} and len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert callable(getattr(node(), node.FUNCTION)) and node.CATEGORY == "mask/segrefine"


def test_refine_mask_gives_what_the_refiner_gives(nodes):
    node = nodes.NODE_CLASS_MAPPINGS["SegrefineRefineMask"]()
    given = {name: kind[1]["default"] for name, kind in node.INPUT_TYPES()["required"].items() if len(kind) > 1}
    given |= {"image": IMAGE, "mask": MASK, "label": "car", "preset": "fast"}
    mask, probability = getattr(node, node.FUNCTION)(**given)
    with Refiner.from_bundle("photo") as refine:
        expected = refine(load_image(image_of()), coarse_of(), "car", settings="fast")
    assert mask.dtype == probability.dtype == torch.float32 and mask.shape == probability.shape == (1, 128, 128)
    np.testing.assert_array_equal(mask[0].numpy() > 0.5, expected.mask)
    np.testing.assert_allclose(probability[0].numpy(), expected.probability, atol=1e-6)


def test_batches_are_refined_image_by_image(nodes):
    node = nodes.NODE_CLASS_MAPPINGS["SegrefineRefineMask"]()
    twice = torch.cat([IMAGE, IMAGE.flip(2)])
    masks, _ = node.refine(twice, torch.cat([MASK, MASK.flip(2)]), "car", preset="fast")
    alone, _ = node.refine(IMAGE, MASK[0], "car", preset="fast")
    assert masks.shape == (2, 128, 128) and torch.equal(masks[0], alone[0])
    with pytest.raises(MaskError, match="one mask, or one for each of 2 images.*got 3 masks"):
        node.refine(twice, torch.cat([MASK] * 3), "car")


def test_mask_from_phrase_gives_what_the_segmenter_gives(nodes):
    node = nodes.NODE_CLASS_MAPPINGS["SegrefineMaskFromPhrase"]()
    mask, _ = node.find(IMAGE, "the car")
    with Segmenter.from_bundle("photo-gs") as segment:
        [expected] = segment(load_image(image_of()), ["the car"]).segments
    np.testing.assert_array_equal(mask[0].numpy() > 0.5, expected.mask)


@pytest.mark.parametrize(
    ("error", "changes", "told"),
    [
        (SettingsError, {"preset": "slow"}, "preset: expected default, .*got 'slow'"),
        (MaskError, {"mask": MASK * 0}, "the mask is empty"),
        (MaskError, {"mask": MASK[:, :64]}, "128×128 pixels"),
        (MaskError, {"mask": MASK[None]}, "a batch of masks"),
        (PromptError, {"label": " "}, "label"),
        (BundleError, {"bundle": "none/there"}, "none/there"),
    ],
)
def test_what_cannot_be_used_is_told(nodes, error, changes, told):
    node = nodes.NODE_CLASS_MAPPINGS["SegrefineRefineMask"]()
    with pytest.raises(error, match=told):
        node.refine(**{"image": IMAGE, "mask": MASK, "label": "car", **changes})


def test_the_scene_is_one_that_ships():
    assert read_mask(image_of().parents[1] / "masks" / f"{NAME}.png").shape == (128, 128)
