from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from segrefine.errors import ExportError, OutputError
from segrefine.export import export_bundle
from segrefine.export.resources import check_resources, estimate_memory
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.weight_files import SingleFile, count_weights
from tests.single_file import write_single_file

SDXL = {"unet": {"F16": 2_600_000_000}, "vae": {"F32": 84_000_000}}
SD15 = {"unet": {"F32": 860_000_000}, "vae": {"F32": 84_000_000}}
Free = namedtuple("Free", "free")


def test_half_precision_takes_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Free(1 << 40))
    with pytest.raises(ExportError, match=r"exporting unet takes about 17\.2 GB of memory, and 9\.5 GB are free") as no:
        check_resources(SDXL, [], tmp_path / "bundle", available=9_500_000_000)
    assert "--dtype fp16" in str(no.value.hint)
    check_resources(SDXL, ["unet"], tmp_path / "bundle", available=9_500_000_000)
    with pytest.raises(ExportError, match=r"takes about 9\.4 GB") as no:
        check_resources(SDXL, ["unet"], tmp_path / "bundle", available=9_000_000_000)
    assert "--dtype fp16" not in str(no.value.hint)


def test_the_estimate_is_above_what_was_measured() -> None:
    measured = [  # peaks of anonymous memory, in GB: see `check_resources`
        ({"F16": 382_000_000}, False, 2.92),
        ({"F16": 382_000_000}, True, 1.53),
        ({"F32": 382_000_000}, False, 0.67),
        ({"F32": 382_000_000}, True, 1.88),
        ({"F16": 2_567_000_000}, True, 7.56),
    ]
    assert all(estimate_memory(counts, half=half) > 1e9 * peak for counts, half, peak in measured)


def test_the_largest_is_what_takes_most_memory(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"exporting unet takes about 5\.1 GB"):
        check_resources(SD15, [], tmp_path / "bundle", available=4_000_000_000)


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Free(10_000_000_000))
    with pytest.raises(ExportError, match=r"up to 10\.7 GB of disk, and 10\.0 GB are free"):
        check_resources(SDXL, [], tmp_path / "none" / "bundle", available=1 << 40)


def test_it_is_known_before_the_work(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    with pytest.raises(ExportError, match=r"of memory, and 1\.0 MB are free"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", progress=pytest.fail)
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_full_meanwhile(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk, it refuses in the middle of a file
    try:
        with pytest.raises(OutputError, match="cannot write .*text_encoder"):
            export_bundle(tiny_checkpoint, tmp_path / "bundle", components=["text_encoder"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())


def test_weights_are_counted_without_loading_them(tiny_checkpoint: Path, tmp_path: Path) -> None:
    single = SingleFile(write_single_file(tiny_checkpoint, tmp_path / "one.safetensors"), tiny_checkpoint)
    for part in ("unet", "vae", "text_encoder"):
        expected = sum(each.numel() for each in load_checkpoint(tiny_checkpoint).load(part).parameters())
        assert count_weights(tiny_checkpoint, part) == count_weights(single, part) == {"F16": expected}
