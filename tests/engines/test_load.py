"""Engines of several components, opened together or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segrefine.bundle import Bundle
from segrefine.engines import Engine, load, load_engine, load_engines
from segrefine.errors import BackendError, EngineError, SegrefineError, SettingsError
from tests.backends import CPU_BACKENDS
from tests.tiny_bundle import CHANNELS, chain

SAMPLE = np.ones((2, CHANNELS), np.float32)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_engines_come_in_the_order_asked_for(bundle: Bundle, backend: str, threads: int | None) -> None:
    engines = load_engines(bundle, ["linear", "chain"], backend, threads=threads)
    assert list(engines) == ["linear", "chain"]
    assert [engine.spec.name for engine in engines.values()] == ["linear", "chain"]
    np.testing.assert_allclose(engines["chain"]({"sample": SAMPLE})["out_sample"], chain(SAMPLE), rtol=1e-4, atol=1e-3)
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("damaged", ["linear", "chain"])
def test_none_stays_open_when_one_does_not_load(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    opened: list[Engine] = []

    def watched(*arguments: Any, **options: Any) -> Engine:
        opened.append(load_engine(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(load, "load_engine", watched)
    bundle.graph(damaged).write_bytes(b"not a graph")
    with pytest.raises(SegrefineError, match=damaged):
        load_engines(bundle, ["linear", "chain"])
    [other] = opened
    with pytest.raises(EngineError, match="is closed"):
        other({"sample": SAMPLE})


def test_options_are_checked(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match="threads: expected 1 to 256, got -1"):
        load_engines(bundle, ["linear"], threads=-1)
    with pytest.raises(BackendError, match="no backend 'tflite'"):
        load_engines(bundle, ["linear"], "tflite")
