"""The demo bundle is the demo checkpoint's export: the same weights, and a manifest of what the code would export."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.export.bundle_export import DEFAULT_TAPS
from segrefine.export.modules import GRAPHS
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.settings import G4SegSettings

PARTS = {"unet": "unet", "unet_features": "unet", "text_encoder": "text_encoder"} | dict.fromkeys(
    ("vae_encoder", "vae_decoder"), "vae"
)


def fingerprint(values):
    """Of the values alone: the export turns and names some weights anew."""
    return np.sort(np.asarray(values, np.float32).ravel()).tobytes()


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open(demo_bundle())


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(demo_checkpoint())


@pytest.mark.parametrize("component", PARTS)
def test_weights_are_the_checkpoints(bundle, checkpoint, component):
    known = {fingerprint(value.numpy()) for value in getattr(checkpoint, PARTS[component]).state_dict().values()}
    graph = onnx.load(bundle.graph(component)).graph
    weights = [array for each in graph.initializer if (array := numpy_helper.to_array(each)).size >= 64]
    weights = [array for array in weights if np.issubdtype(array.dtype, np.floating)]
    assert len(weights) > 15
    assert not [array.shape for array in weights if fingerprint(array) not in known]


def test_manifest_is_what_would_be_exported(bundle):
    manifest = bundle.manifest
    assert manifest.method == "g4seg" and manifest.graphs.keys() == GRAPHS.keys()
    assert manifest.settings == {
        name: list(value) if isinstance(value, tuple) else value for name, value in G4SegSettings().to_dict().items()
    }
    assert manifest.feature_taps == DEFAULT_TAPS
    bundle.verify()
