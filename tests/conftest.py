"""What tests of several parts read, made once per run, and the order in which files are tested."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from segrefine.assets import SHIPPED_BUNDLES
from segrefine.engines.cuda import check_gpu
from segrefine.errors import SegrefineError
from tests import examples  # noqa: F401 - chooses hypothesis's profile before any test is imported
from tests.once import made_once
from tests.tiny_checkpoint import write_tiny_checkpoint, write_tiny_label_checkpoint


def _has_gpu() -> bool:
    """Whether PyTorch can use a GPU here; told without importing it."""
    try:
        check_gpu(0)
        return not version("torch").endswith("+cpu")
    except (SegrefineError, PackageNotFoundError):
        return False


if not _has_gpu():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: GPU kernels are computed on the CPU


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts its background jobs so, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first what takes minutes a file, so that in the end no process works alone."""
    long = {Path(__file__).parent / folder for folder in ("export", "parity")}
    items.sort(key=lambda item: item.path.parent not in long)


@pytest.fixture(scope="session")
def half_demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a demo model → its bundle in half precision, for reading."""

    def bundle(name: str) -> Path:
        from segrefine.export import export_bundle

        return made_once(tmp_path_factory, f"{name}-fp16", lambda folder: export_bundle(name, folder, dtype="fp16"))

    return bundle


@pytest.fixture(
    scope="module",
    params=[
        ("demo", "fp32"), ("demo", "fp16"), ("demo-gs", "fp32"),
        pytest.param(("demo-gs", "fp16"), marks=pytest.mark.slow),  # a minute to export
    ],
    ids="-".join,
)  # fmt: skip
def any_demo_bundle(request: pytest.FixtureRequest, half_demo_bundle: Callable[[str], Path]) -> Path:
    """The bundles of the demo models in both precisions, for reading."""
    name, dtype = request.param
    return SHIPPED_BUNDLES[name] if dtype == "fp32" else half_demo_bundle(name)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers saves it, in half precision: 2 levels of attention, 2 pixels per latent pixel."""
    return made_once(tmp_path_factory, "tiny-checkpoint", write_tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_xl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the manner of Stable Diffusion XL."""
    return made_once(tmp_path_factory, "tiny-xl-checkpoint", partial(write_tiny_checkpoint, xl=True))


@pytest.fixture(scope="session", params=["area", "vae"])
def tiny_label_checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A label diffusion model as training writes it, around the parts of `tiny_checkpoint`, with either codec."""
    name = f"tiny-labels-{request.param}"
    return made_once(
        tmp_path_factory, name, lambda folder: write_tiny_label_checkpoint(folder, tiny_checkpoint, request.param)
    )


@pytest.fixture(scope="session")
def tiny_label_bundle(tiny_label_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_label_checkpoint`, for reading."""
    from segrefine.export import export_bundle

    name = f"{tiny_label_checkpoint.parent.name}-bundle"
    return made_once(tmp_path_factory, name, lambda folder: export_bundle(tiny_label_checkpoint, folder))
