"""What TensorRT-RTX compiled for this GPU is kept beside the engine, and read at the next start."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segrefine.bundle import Bundle
from segrefine.cli.built_engines import list_engines
from segrefine.engines import load_engine
from segrefine.engines.tensorrt.runtime_cache import RuntimeCache
from segrefine.errors import EngineWarning
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import build
from tests.examples import examples
from tests.tiny_bundle import CHANNELS

SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)
RTX = "tensorrt-rtx"


def run(bundle: Bundle, *sizes: int) -> None:
    with load_engine(bundle, "chain", RTX) as engine:
        for size in sizes:
            engine({"sample": SAMPLE[:size]})


def caches(bundle: Bundle) -> list[Path]:
    return sorted(bundle.path.glob(f"engines/{RTX}/chain/*.cache"))


def test_the_second_start_does_not_compile_again(gpu: Cuda, bundle: Bundle) -> None:
    engine = build(bundle, "chain", RTX)
    run(bundle, 1, 2, 2)
    assert gpu.compiled == 2
    assert caches(bundle) == [engine.with_suffix(".sm89-cuda13.0.cache")]
    written = caches(bundle)[0].stat().st_mtime_ns
    run(bundle, 2, 1)
    assert gpu.compiled == 2 and caches(bundle)[0].stat().st_mtime_ns == written, "nothing new, and yet written"
    run(bundle, 3)
    assert gpu.compiled == 3
    run(bundle, 3)
    assert gpu.compiled == 3
    assert not [path for path in engine.parent.iterdir() if "partial" in path.name]


def test_a_process_that_does_not_end_well_has_kept_its_first_shape(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "chain", RTX)
    engine = load_engine(bundle, "chain", RTX)
    engine({"sample": SAMPLE})
    assert len(caches(bundle)) == 1
    engine.close()


@pytest.mark.parametrize("change", [{"driver": 13020}, {"capability": (8, 6)}])
def test_another_driver_or_gpu_has_a_cache_of_its_own(gpu: Cuda, bundle: Bundle, change: dict[str, object]) -> None:
    build(bundle, "chain", RTX)
    run(bundle, 1)
    for name, value in change.items():
        setattr(gpu, name, value)
    run(bundle, 1)
    assert gpu.compiled == 2 and len(caches(bundle)) == 2


def test_an_engine_that_was_built_again_does_not_take_the_old_cache(gpu: Cuda, bundle: Bundle) -> None:
    engine = build(bundle, "chain", RTX)
    cache = RuntimeCache(engine, "key of another engine", "sm89-cuda13.0")
    cache.write(b"[[1]]")
    run(bundle, 1)
    assert gpu.compiled == 1
    assert cache.read() is None, "replaced"


@given(data=st.data())
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_cache_is_a_warning_and_never_used(tmp_path: Path, data: st.DataObject) -> None:
    cache = RuntimeCache(tmp_path / "x.engine", "key", "sm89-cuda13.0")
    content = data.draw(st.binary(min_size=1, max_size=40))
    cache.write(content)
    assert cache.read() == content
    whole = cache.path.read_bytes()
    damaged = bytearray(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(damaged), whole[:place]):
        cache.path.write_bytes(wrong)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert cache.read() is None
        assert all(issubclass(each.category, EngineWarning) for each in said)
    assert said, "cut short, and nothing was said"


def test_an_engine_beside_a_damaged_cache_runs_and_mends_it(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "chain", RTX)
    run(bundle, 1)
    caches(bundle)[0].write_bytes(caches(bundle)[0].read_bytes()[:-3])
    with pytest.warns(EngineWarning, match=r"runtime cache .*sm89-cuda13\.0\.cache is damaged; .* its kernels again"):
        run(bundle, 1)
    run(bundle, 1)
    assert gpu.compiled == 2


def test_a_cache_that_tensorrt_refuses_is_a_warning(gpu: Cuda, bundle: Bundle) -> None:
    engine = build(bundle, "chain", RTX)
    key = json.loads(engine.with_suffix(".json").read_text())["key"]
    RuntimeCache(engine, key, "sm89-cuda13.0").write(b"of another version")
    with pytest.warns(EngineWarning, match="was refused by TensorRT-RTX"):
        run(bundle, 1)


def test_a_folder_that_cannot_be_written_to_is_a_warning(gpu: Cuda, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = RuntimeCache(tmp_path / "file" / "x.engine", "key", "sm89-cuda13.0")
    with pytest.warns(EngineWarning, match="cannot be written .* every start compiles"):
        cache.write(b"kernels")


def test_inspect_tells_the_size(gpu: Cuda, bundle: Bundle) -> None:
    build(bundle, "chain", RTX)
    run(bundle, 1)
    [listed] = [each.to_dict() for each in list_engines(bundle) if each.component == "chain"]
    assert listed["runtime_caches"] == {"sm89-cuda13.0": caches(bundle)[0].stat().st_size}
    assert listed["state"] == "current"
