"""Engines that are loaded when they are called: one at a time, with the same masks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import load_samples
from segrefine.engines import Closing, EngineOptions, build_engine, load, recipe
from segrefine.engines.hardware import free_memory
from segrefine.engines.load import load_engines
from segrefine.engines.on_demand import OnDemand, Room
from segrefine.engines.part import EnginePart, find_parts
from segrefine.errors import EngineError, SettingsError
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from tests.backends import CPU_BACKENDS


@pytest.fixture
def loaded(monkeypatch):
    """Every graph counts as large; how many engines are open, at most and now."""
    monkeypatch.setattr(recipe, "LARGE", 1)
    counts = {"now": 0, "most": 0, "loads": 0}
    load_one = load.load_engine

    class Counted(Closing):
        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, feeds, *, only=None):
            return self._engine(feeds, only=only)

        def close(self):
            counts["now"] -= 1
            self._engine.close()

    def count(*args, **options):
        counts["now"] += 1
        counts["loads"] += 1
        counts["most"] = max(counts["most"], counts["now"])
        return Counted(load_one(*args, **options))

    monkeypatch.setattr(load, "load_engine", count)
    return counts


def test_masks_are_the_same_and_one_engine_is_open_at_a_time(loaded):
    sample = next(iter(load_samples(demo_samples()).values()))
    with Refiner.from_bundle(demo_bundle(), backend="onnxruntime", threads=1, low_memory=False) as refiner:
        expected = refiner(sample.image, sample.coarse, sample.label)
    loaded.update(most=0)
    with Refiner.from_bundle(demo_bundle(), backend="onnxruntime", threads=1, low_memory=True) as refiner:
        assert loaded["now"] == 0
        found = refiner(sample.image, sample.coarse, sample.label)
        assert loaded["most"] == 1
    assert loaded["now"] == 0
    np.testing.assert_array_equal(found.probability, expected.probability)


def test_a_segmenter_with_threads_of_its_own(loaded):
    sample = next(iter(load_samples(demo_samples()).values()))
    with Segmenter.from_bundle(demo_gs_bundle(), backend="onnxruntime", threads=1, low_memory=True) as segmenter:
        results: list[np.ndarray] = []
        ask = lambda: results.append(segmenter(sample.image, ["the fox"]).segments[0].probability)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 3 and all(np.array_equal(each, results[0]) for each in results) and loaded["most"] == 1


@pytest.mark.parametrize(("free", "short"), [(1, True), (1 << 50, False), (None, False)])
def test_it_is_chosen_where_memory_is_short(free, short, monkeypatch):
    monkeypatch.setattr(recipe, "LARGE", 1)
    monkeypatch.setattr(load, "free_memory", lambda: free)
    engines = load_engines(Bundle.open(demo_bundle()), ["unet", "vae_encoder"], threads=1, low_memory=None)
    assert all(isinstance(engine, OnDemand) == short for engine in engines.values())
    for engine in engines.values():
        engine.close()
        engine.close()


def test_small_graphs_and_a_single_large_one_stay_loaded(monkeypatch):
    bundle = Bundle.open(demo_bundle())
    for engine in load_engines(bundle, ["unet", "vae_encoder"], threads=1, low_memory=True).values():
        assert not isinstance(engine, OnDemand)
        engine.close()
    monkeypatch.setattr(recipe, "LARGE", recipe.graph_size(bundle, "unet"))
    for engine in load_engines(bundle, ["unet", "vae_encoder"], threads=1, low_memory=True).values():
        assert not isinstance(engine, OnDemand)
        engine.close()


def test_a_closed_engine_says_so_and_one_that_does_not_load_leaves_room():
    def fail():
        raise EngineError("it does not load")

    room, spec = Room(), Bundle.open(demo_bundle()).manifest.components["unet"]
    broken = OnDemand(spec, fail, room)
    for _ in range(2):
        with pytest.raises(EngineError, match="does not load"):
            broken({})
    broken.close()
    with pytest.raises(EngineError, match="unet: the engine is closed"):
        broken({})


def test_closing_one_engine_leaves_the_one_that_is_loaded():
    class Loaded(Closing):
        closed = False

        def __call__(self, feeds, *, only=None):
            return {}

        def close(self):
            self.closed = True

    engines, specs = [Loaded(), Loaded()], Bundle.open(demo_bundle()).manifest.components
    room = Room()
    first, second = (OnDemand(specs["unet"], partial(next, iter([each])), room) for each in engines)
    first({})
    second.close()
    assert not engines[0].closed
    first.close()
    assert engines[0].closed


def test_it_is_for_processors():
    with pytest.raises(SettingsError, match="low_memory: expected the device cpu, got cuda"):
        EngineOptions(device="cuda", low_memory=True)


def test_free_memory_is_what_linux_says(tmp_path):
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:     70 kB\n")
    assert free_memory(tmp_path) == 70 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    for name, text in {"max": "4096", "current": "1024", "stat": "active_file 0\ninactive_file 0\n"}.items():
        (group / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path) == 3072  # a container leaves less


def test_the_image_decoder_is_loaded_by_the_first_look(loaded):
    sample = next(iter(load_samples(demo_samples()).values()))
    with Refiner.from_bundle(demo_bundle(), backend="onnxruntime", threads=1, low_memory=False) as refiner:
        before = loaded["now"]
        assert isinstance(refiner.engines["vae_decoder"], OnDemand) and before == len(refiner.engines) - 2
        result = refiner(sample.image, sample.coarse, sample.label)
        assert loaded["now"] == before
        refiner.decode_image(result.rounds[0].generated)
        assert loaded["now"] == before + 1
    assert loaded["now"] == 0


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_engine_of_a_large_unet_gives_the_features_too(loaded, backend):
    sample = next(iter(load_samples(demo_samples()).values()))
    with Refiner.from_bundle(demo_bundle(), backend=backend, threads=1) as refiner:
        features = refiner.engines["unet_features"]
        assert isinstance(features, EnginePart) and [each.name for each in features.spec.outputs] == ["features"]
        found = refiner(sample.image, sample.coarse, sample.label)
        features.close()  # closes nothing: the UNet is still needed
        refiner(sample.image, sample.coarse, sample.label)
    assert loaded["now"] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "LARGE", 1 << 40)
        with Refiner.from_bundle(demo_bundle(), backend=backend, threads=1) as small:
            assert not isinstance(small.engines["unet_features"], EnginePart)
            expected = small(sample.image, sample.coarse, sample.label)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-3)


def test_only_a_large_graph_that_another_one_contains_is_a_part(monkeypatch):
    bundle = Bundle.open(demo_bundle())
    every = list(bundle.manifest.graphs)
    assert find_parts(bundle, every) == {}
    monkeypatch.setattr(recipe, "LARGE", 1)
    assert find_parts(bundle, every) == {"unet_features": "unet"}
    assert find_parts(bundle, ["unet_features"]) == {}


def test_no_engine_is_built_for_what_another_one_gives(tmp_path, monkeypatch):
    bundle = Bundle.open(shutil.copytree(demo_bundle(), tmp_path / "bundle"))
    monkeypatch.setattr(recipe, "LARGE", 1)
    built = build_engine(bundle, backend="openvino")
    assert {each.component for each in built} == {*bundle.manifest.graphs} - {"unet_features"}
    [asked] = build_engine(bundle, backend="openvino", components=["unet_features"])
    assert asked.component == "unet_features"


KEPT = """
import sys
from pathlib import Path
import numpy as np
from segrefine.assets import demo_gs_bundle
from segrefine.bundle import Bundle
from segrefine.engines import load_engine, recipe

def resident():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

recipe.LARGE = int(sys.argv[1])
engine = load_engine(Bundle.open(demo_gs_bundle()), "vae_encoder", threads=1)
before = resident()
engine({"sample": np.zeros((1, 3, 384, 384), np.float32)})
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's figures")
def test_a_large_model_gives_its_memory_back_after_a_run():
    """In processes of their own: elsewhere the memory of earlier tests is used again."""
    large, small = (
        int(subprocess.run([sys.executable, "-c", KEPT, least], capture_output=True, text=True, check=True).stdout)
        for least in ("1", str(1 << 40))
    )
    assert large < small / 2
