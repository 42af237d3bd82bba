from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from segrefine.errors import ExportError
from segrefine.export import export_bundle
from segrefine.export.resources import check_resources
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.weight_files import SingleFile, count_weights
from tests.single_file import write_single_file

UNET = {"unet": 2_600_000_000, "vae": 84_000_000}
Free = namedtuple("Free", "free")


def test_half_precision_takes_half_of_the_memory(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"exporting unet takes about 12\.0 GB of memory, and 8\.0 GB are free") as no:
        check_resources(UNET, [], tmp_path / "bundle", available=8_000_000_000)
    assert "--dtype fp16" in str(no.value.hint)
    check_resources(UNET, ["unet"], tmp_path / "bundle", available=8_000_000_000)


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Free(10_000_000_000))
    with pytest.raises(ExportError, match=r"up to 10\.7 GB of disk, and 10\.0 GB are free"):
        check_resources(UNET, [], tmp_path / "none" / "bundle", available=1 << 40)


def test_it_is_known_before_the_work(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(1_000_000))
    with pytest.raises(ExportError, match="of memory"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", progress=pytest.fail)
    assert not any(tmp_path.iterdir())


def test_weights_are_counted_without_loading_them(tiny_checkpoint: Path, tmp_path: Path) -> None:
    single = SingleFile(write_single_file(tiny_checkpoint, tmp_path / "one.safetensors"), tiny_checkpoint)
    for part in ("unet", "vae", "text_encoder"):
        expected = sum(each.numel() for each in load_checkpoint(tiny_checkpoint).load(part).parameters())
        assert count_weights(tiny_checkpoint, part) == count_weights(single, part) == expected
