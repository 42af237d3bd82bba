"""`inspect` says of every built engine what loading it would."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrefine.bundle import Bundle
from segrefine.engines import build_engine, load_engine
from segrefine.errors import EngineError, EngineWarning
from tests.tiny_bundle import write_bundle


@pytest.fixture(params=["onnxruntime", "openvino"])
def built(request, tmp_path: Path) -> tuple[Bundle, Path, str]:
    """A bundle, the engine of one of its two components, and the engine's backend."""
    pytest.importorskip(request.param)
    bundle = write_bundle(tmp_path / "bundle")
    engines = build_engine(bundle, backend=request.param)
    return bundle, next(e.path for e in engines if e.component == "chain"), request.param


def states(run, bundle: Bundle) -> dict[str, str]:
    engines = json.loads(run("inspect", bundle.path, "--json").stdout)["engines"]
    return {engine["component"]: engine["state"] for engine in engines}


def rewrite(path: Path, **changed: Any) -> None:
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changed))


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def age(path: Path) -> None:
    rewrite(path, version="1.0.0", key="x")
    for file in (path, path.with_suffix(".json")):
        file.rename(path.with_name(f"fp32_dynamic_1.0.0_cpu{file.suffix}"))


DAMAGES = {
    "altered": alter,
    "cut": lambda path: os.truncate(path, 10),
    "missing": lambda path: path.unlink(),
    "sidecar cut": lambda path: os.truncate(path.with_suffix(".json"), 10),
    "sidecar of a list": lambda path: path.with_suffix(".json").write_text("[]"),
    "engine not recorded": lambda path: (rewrite(path, files={}), path.unlink()),
}
AGES = {
    "other graph": lambda path: rewrite(path, key="x", graph={"chain/model.onnx": "y"}),
    "other hardware": lambda path: rewrite(path, key="x", hardware="abacus"),
    "other version": age,
    "empty sidecar": lambda path: path.with_suffix(".json").write_text("{}"),
}


def test_whole_engines_are_current(run, built):
    bundle, _, _ = built
    result = run("inspect", bundle.path)
    assert result.exit_code == 0, result.output
    assert states(run, bundle) == {"chain": "current", "linear": "current"}
    assert "stale" not in result.stdout and "damaged" not in result.stdout


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_engine_fails(run, fails, built, damage: Callable[[Path], None]):
    bundle, engine, backend = built
    damage(engine)
    with pytest.raises(EngineError):
        load_engine(bundle, "chain", backend)
    assert str(engine.with_suffix("")) in fails("inspect", bundle.path)
    result = run("inspect", bundle.path)
    assert (
        f"hint: build it again: segrefine build-engine {bundle.path} --backend {backend} --device cpu" in result.stderr
    )
    assert "damaged" in next(line for line in result.stdout.splitlines() if engine.stem in line and "chain" in line)
    assert states(run, bundle) == {"chain": "damaged", "linear": "current"}
    summary = json.loads(run("inspect", bundle.path, "--json").stdout)
    assert not summary["intact"] and [bool(each["problem"]) for each in summary["engines"]] == [True, False]


@pytest.mark.parametrize("change", AGES.values(), ids=AGES)
def test_stale_engine_is_listed(run, built, change: Callable[[Path], None]):
    bundle, engine, backend = built
    change(engine)
    with pytest.warns(EngineWarning, match="stale"):
        load_engine(bundle, "chain", backend).close()
    assert run("inspect", bundle.path).exit_code == 0
    assert states(run, bundle) == {"chain": "stale", "linear": "current"}


def test_two_damaged_engines_are_one_error(fails, built):
    bundle, engine, _ = built
    for each in (engine, next(bundle.path.glob(f"engines/*/linear/*{engine.suffix}"))):
        alter(each)
    assert "2 engines are damaged" in fails("inspect", bundle.path)


def test_engine_whose_backend_is_not_installed(run, fails, built, monkeypatch):
    bundle, engine, backend = built
    monkeypatch.setitem(sys.modules, backend, None)
    assert states(run, bundle) == {"chain": "current", "linear": "current"}
    alter(engine)
    assert "altered" in fails("inspect", bundle.path)


def test_engine_of_a_component_that_is_gone_is_stale(run, built):
    bundle, engine, _ = built
    engine.parent.rename(engine.parent.with_name("gone"))
    assert states(run, bundle) == {"gone": "stale", "linear": "current"}
