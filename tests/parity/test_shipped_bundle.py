"""The bundles that ship are exports of the checkpoints that ship: the same weights, the manifests of today's code."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segrefine.assets import (
    demo_bundle,
    demo_checkpoint,
    demo_gs_bundle,
    demo_gs_checkpoint,
    photo_bundle,
    photo_checkpoint,
    photo_gs_bundle,
    photo_gs_checkpoint,
)
from segrefine.bundle import Bundle
from segrefine.export.modules import GRAPHS, PARTS
from segrefine.reference.checkpoint import ModelParts, load_checkpoint, load_label_checkpoint
from segrefine.reference.families import FAMILIES
from segrefine.reference.label_codec import describe_codec
from segrefine.settings import G4SegSettings, GsSettings


@dataclass
class Shipped:
    """A demo model, in both forms."""

    bundle: Bundle
    checkpoint: ModelParts

    @cached_property
    def known(self):
        """The checkpoint's weights, by part."""
        parts = ("text_encoder", "vae", "unet" if self.bundle.manifest.method == "g4seg" else "label_denoiser")
        states = {part: getattr(self.checkpoint, part).state_dict() for part in parts}
        return {part: {fingerprint(weight.numpy()) for weight in state.values()} for part, state in states.items()}


def fingerprint(values):
    """Of the values alone: the export turns and names some weights anew."""
    return np.sort(np.asarray(values, np.float32).ravel()).tobytes()


@pytest.fixture(scope="module")
def g4seg():
    return Shipped(Bundle.open(demo_bundle()), load_checkpoint(demo_checkpoint()))


@pytest.fixture(scope="module")
def photo():
    return Shipped(Bundle.open(photo_bundle()), load_checkpoint(photo_checkpoint()))


@pytest.fixture(scope="module")
def gs():
    return Shipped(Bundle.open(demo_gs_bundle()), load_label_checkpoint(demo_gs_checkpoint()))


@pytest.fixture(scope="module")
def photo_gs():
    return Shipped(Bundle.open(photo_gs_bundle()), load_label_checkpoint(photo_gs_checkpoint()))


@pytest.mark.parametrize("model", ["g4seg", "photo", "gs", "photo_gs"])
def test_weights_are_the_checkpoints(model, request):
    shipped = request.getfixturevalue(model)
    for component in shipped.bundle.manifest.graphs.keys() - {"alignment"}:
        graph = onnx.load(shipped.bundle.graph(component)).graph
        weights = [array for each in graph.initializer if (array := numpy_helper.to_array(each)).size >= 64]
        weights = [array for array in weights if np.issubdtype(array.dtype, np.floating)]
        assert len(weights) > 5
        known = shipped.known[PARTS.get(component, component)]
        assert not [array.shape for array in weights if fingerprint(array) not in known]


@pytest.mark.parametrize("model", ["g4seg", "photo"])
def test_manifest_of_the_refiner_is_what_would_be_exported(model, request):
    shipped = request.getfixturevalue(model).bundle
    manifest = shipped.manifest
    assert manifest.method == "g4seg" and manifest.graphs.keys() == GRAPHS.keys() - {"text_encoder_2"}
    assert manifest.feature_taps == FAMILIES[0].taps
    shipped.verify()


def test_the_demo_refiner_has_two_settings_of_its_own(g4seg):
    manifest = g4seg.bundle.manifest
    settings, default = G4SegSettings.from_dict(manifest.settings), G4SegSettings()
    fitted = ("worth_range", "effect_range")  # the demo model has values of its own
    assert settings.with_changes({name: getattr(default, name) for name in fitted}) == default


@pytest.mark.parametrize("model", ["gs", "photo_gs"])
def test_manifest_of_the_segmenter_is_what_would_be_exported(model, request):
    gs = request.getfixturevalue(model)
    manifest = gs.bundle.manifest
    assert manifest.method == "gs"
    assert manifest.graphs.keys() == {"text_encoder", "vae_encoder", "label_denoiser"}
    assert GsSettings.from_dict(manifest.settings) == GsSettings()
    assert manifest.label_codec == describe_codec(gs.checkpoint.codec)
    gs.bundle.verify()
