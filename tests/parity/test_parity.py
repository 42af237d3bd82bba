"""One test body over every backend: engines against the PyTorch reference, by the one table of tolerances."""

import numpy as np
import pytest

from segrefine.assets import (
    SHIPPED_BUNDLES,
    SHIPPED_CHECKPOINTS,
    demo_bundle,
    demo_checkpoint,
    demo_gs_bundle,
    demo_gs_checkpoint,
    demo_samples,
)
from segrefine.cli.samples import load_samples
from segrefine.errors import ExportError
from segrefine.export.comparison import TOLERANCES, ParityScene
from segrefine.export.parity import check_parity
from tests.backends import CPU_BACKENDS

pytestmark = pytest.mark.usefixtures("reference_once")


def scenes() -> list[ParityScene]:
    """The twelve shipped scenes, and as many mirrored, upright and cropped ones: 24 of three shapes."""
    originals = [
        ParityScene(image=s.image, coarse=s.coarse, label=s.label) for s in load_samples(demo_samples()).values()
    ]
    mirrored = []
    for number, scene in enumerate(originals):
        part = np.s_[:, ::-1] if number % 2 else np.s_[: 128 - 8 * number]
        image, coarse = np.ascontiguousarray(scene.image[part]), np.ascontiguousarray(scene.coarse[part])
        mirrored.append(ParityScene(image=image, coarse=coarse, label=scene.label))
    return originals + [s for s in mirrored if 0 < (s.coarse > 0.5).sum() < s.coarse.size]


# A whole scene and two cropped ones: each commit compares every step of every backend at three shapes.
CHOICES = [
    pytest.param(np.s_[10::6], id="3 scenes"),
    pytest.param(np.s_[:], id="all scenes", marks=pytest.mark.slow),
]


def test_scenes_are_of_all_kinds():
    chosen = scenes()
    assert len(chosen) >= 20 and len({scene.image.shape for scene in chosen[10::6]}) == 3


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("model", ["demo", pytest.param("photo", marks=pytest.mark.slow)])
def test_engines_do_what_the_reference_does(model, backend, choice):
    rows = list(check_parity(SHIPPED_BUNDLES[model], SHIPPED_CHECKPOINTS[model](), scenes()[choice], backend=backend))
    assert {row.component for row in rows} >= {"text_encoder", "vae_encoder", "vae_decoder", "unet", "unet_features"}
    assert {row.component for row in rows} >= {"alignment", "one-step", "loop"}
    assert sum("sampling" in row.step for row in rows) > 5  # the drift curve of the loop
    assert not [row for row in rows if not row.ok]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("model", ["demo-gs", pytest.param("photo-gs", marks=pytest.mark.slow)])
def test_label_diffusion_does_what_the_reference_does(model, backend, choice):
    rows = list(check_parity(SHIPPED_BUNDLES[model], SHIPPED_CHECKPOINTS[model](), scenes()[choice], backend=backend))
    assert {row.component for row in rows} >= {"text_encoder", "vae_encoder", "label_denoiser"}
    assert {row.component for row in rows} >= {"as set", "ddim", "ddim, guided", "dpm-solver", "lcm"}
    assert sum("sampling" in row.step for row in rows) > 12  # the drift curve of each sampler
    assert not [row for row in rows if not row.ok]


def test_tolerances_are_those_that_the_project_promises():
    promised = {"component": 1e-4, "latents": 1e-3, "mask": 1e-3}
    assert {kind: TOLERANCES[kind]["fp32"] for kind in promised} == promised


@pytest.mark.parametrize(
    ("bundle", "checkpoint"), [(demo_gs_bundle, demo_checkpoint), (demo_bundle, demo_gs_checkpoint)]
)
def test_a_reference_of_the_other_kind_is_named(bundle, checkpoint):
    with pytest.raises(ExportError, match=r"expected a .* model, as the bundle is of one; got a"):
        next(iter(check_parity(bundle(), checkpoint(), [])))
