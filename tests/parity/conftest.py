"""What the tests of parity compute once: PyTorch's results, and the fresh exports that `--locate` compares with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.export import export_bundle, locate
from segrefine.reference.g4seg import G4Seg
from segrefine.reference.gs import Gs
from segrefine.reference.weight_files import Model
from tests.once import made_once


@pytest.fixture(scope="module")
def reference_once() -> Iterator[None]:
    """The reference computes every result once: asked again for the same, it tells the same steps and gives that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(G4Seg, "refine", remembering(G4Seg.refine))
        patch.setattr(Gs, "segment", remembering(Gs.segment))
        yield


def remembering(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the reference that remembers its results, by the model, the settings and all inputs."""
    known: dict[tuple[object, ...], tuple[Any, list[tuple[str, int, torch.Tensor]]]] = {}

    def ask(self: Any, *inputs: Any) -> Any:
        values = [_content(each) for each in inputs]
        key = self.model.model, repr(self.settings), getattr(self, "taps", None), *values
        if key not in known:
            steps: list[tuple[str, int, torch.Tensor]] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self, "observe", lambda stage, timestep, y: steps.append((stage, timestep, y.clone())))
                known[key] = compute(self, *inputs), steps
        result, steps = known[key]
        for step in steps:
            self.observe(*step)
        return deepcopy(result)

    return ask


def _content(value: Any) -> object:
    return (value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else repr(value)


@pytest.fixture
def fresh_export_once(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`--locate` gets the same fresh export, with the same arguments, once made in the run.

    The demo model's is the bundle that ships. `test_a_changed_weight_is_found_by_a_fresh_export` makes one.
    """

    def export(checkpoint: Model, target: Path, **options: Any) -> Bundle:
        if checkpoint == demo_checkpoint():
            return Bundle.open(demo_bundle())
        said = hashlib.sha256(repr((checkpoint, sorted(options.items()))).encode()).hexdigest()
        return Bundle.open(
            made_once(tmp_path_factory, f"fresh-{said}", lambda folder: export_bundle(checkpoint, folder, **options))
        )

    monkeypatch.setattr(locate, "export_bundle", export)
