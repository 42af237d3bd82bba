"""The demo scenes as a labelled data set, and a copy of the demo bundle to tune."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from segrefine.assets import demo_bundle, demo_samples
from segrefine.batch.worker import Job
from segrefine.engines import EngineOptions
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.guard import GUARD
from segrefine.settings import G4SegSettings


def copy_bundle(folder: Path, **settings: object) -> Path:
    """A copy of the demo bundle with the settings `fast` and some others, to which no guard was fitted."""
    shutil.copytree(demo_bundle(), folder)
    file = folder / "segrefine.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["settings"] = G4SegSettings.preset("fast").with_changes(settings).to_dict()
    if raw["files"].pop(GUARD, None):
        (folder / GUARD).unlink()
    file.write_text(json.dumps(raw), encoding="utf-8")
    return folder


def write_scenes(folder: Path, count: int, *, label: str | None = None) -> Path:
    """The first scenes, again from the first where they do not suffice; all under one label if it is given."""
    known = json.loads((demo_samples() / "labels.json").read_text(encoding="utf-8"))
    labels = {}
    for kind in ("images", "masks", "truth"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        name = list(known)[number % len(known)]
        for kind in ("images", "masks", "truth"):
            shutil.copyfile(demo_samples() / kind / f"{name}.png", folder / kind / f"{number:02}.png")
        labels[f"{number:02}"] = label or known[name]
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return folder


def job_of(data: Path, bundle: Path, output: Path, seed: int = 0) -> Job:
    """The job of tuning a bundle to a data set."""
    setup = PipelineSetup(bundle=bundle, engines=EngineOptions(threads=1))
    return Job(source=data, images=None, output=output, setup=setup, seed=seed)
