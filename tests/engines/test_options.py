"""Options of engines: checked where they are made, and the same in another process."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.engines import BACKENDS, BuildOptions, EngineOptions, EnginePrecision, Plugins, taking
from segrefine.engines.tensorrt.job import BuildJob
from segrefine.errors import BackendError, SegrefineError, SettingsError
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.settings import G4SegSettings

OPTIONS = st.builds(
    EngineOptions,
    backend=st.sampled_from([*BACKENDS, "auto"]),
    device=st.sampled_from(["cpu", "cuda", "cuda:3"]),
    precision=st.sampled_from([None, *get_args(EnginePrecision)]),
    threads=st.none() | st.integers(1, 256),
    resolution=st.none() | st.integers(64, 4096),
)
SHAPES = st.dictionaries(
    st.text(max_size=8), st.lists(st.lists(st.integers(1, 99), max_size=4), max_size=3), max_size=3
)


@settings(deadline=None)
@given(options=OPTIONS)
def test_a_setup_is_the_same_in_another_process(options: EngineOptions) -> None:
    setup = PipelineSetup(bundle="demo", engines=options, settings=G4SegSettings(noises=2))
    assert pickle.loads(pickle.dumps(setup)) == setup
    with pytest.raises(FrozenInstanceError):
        options.threads = 3  # type: ignore[misc]


@settings(deadline=None)
@given(shapes=SHAPES, number=st.none() | st.integers(0, 5), path=st.text(), flag=st.booleans())
def test_a_job_of_the_builder_survives_its_pipe(
    shapes: dict[str, Any], number: int | None, path: str, flag: bool
) -> None:
    job = BuildJob(
        library="tensorrt", graph=path, engine=path, shapes=shapes, optimization_level=number, workspace=number,
        plugins=flag, tf32=not flag, version_compatible=flag, timing_cache=path, compute_capabilities=[[8, 9]],
    )  # fmt: skip
    assert BuildJob.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"device": "gpu"}, BackendError, "device: expected cpu, cuda or cuda:N; got 'gpu'"),
        ({"device": "cuda:x"}, BackendError, "got 'cuda:x'"),
        ({"device": "cpu:1"}, BackendError, "got 'cpu:1'"),
        ({"precision": "fp8"}, SettingsError, "precision: expected one of fp32, fp16, bf16; got 'fp8'"),
        ({"threads": 0}, SettingsError, "threads: expected 1 to 256, got 0"),
        ({"threads": 257}, SettingsError, "threads: expected 1 to 256, got 257"),
    ],
)
def test_what_cannot_be_had(values: dict[str, Any], error: type[SegrefineError], message: str) -> None:
    with pytest.raises(error, match=message):
        EngineOptions(**values)


CHANGES: dict[str, Any] = {
    "min_shapes": {"batch": 1}, "opt_shapes": {"batch": 1}, "max_shapes": {"batch": 1}, "workspace": 8,
    "compute_capabilities": ("8.9",), "optimization_level": 1, "plugins": "never", "tf32": True,
    "version_compatible": True, "timing_cache": None,
}  # fmt: skip


def test_every_build_option_is_taken_by_a_backend() -> None:
    names = [each.name for each in fields(BuildOptions)]
    assert all(taking(name) for name in names) and CHANGES.keys() == {*names}
    assert set(get_args(Plugins)) == {"auto", "always", "never"}
    assert all(backend.build_options.keys() <= {*names} for backend in BACKENDS.values()), "a name that is misspelt"
    for name, value in CHANGES.items():
        assert BuildOptions(**{name: value}).changed == ([] if value is None else [name])
