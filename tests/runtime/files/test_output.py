"""Results on disk: they read back as written, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.errors import OutputError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.files.output import save_image, save_mask, save_probability

RNG = np.random.default_rng(3)
PROBABILITY = RNG.random((5, 7))
MASK = PROBABILITY > 0.5


def test_mask_reads_back(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", MASK)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.where(MASK, 255, 0))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (5, 7)), MASK)


@pytest.mark.parametrize(("name", "error"), [("p.png", 0.5 / 65535), ("p.PNG", 0.5 / 65535), ("p.npy", 1e-7)])
def test_probability_reads_back(tmp_path: Path, name: str, error: float) -> None:
    save_probability(tmp_path / name, PROBABILITY)
    np.testing.assert_allclose(load_mask(tmp_path / name, (5, 7)), PROBABILITY, rtol=0, atol=error + 1e-7)


@pytest.mark.parametrize("name", ["p.png", "p.npy"])
def test_rounding_past_one_is_cut_off(tmp_path: Path, name: str) -> None:
    save_probability(tmp_path / name, np.array([[-1e-5, 1 + 1e-5]]))
    np.testing.assert_array_equal(load_mask(tmp_path / name, (1, 2)), [[0, 1]])


def test_image_reads_back(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    save_image(tmp_path / "image.png", image)
    np.testing.assert_array_equal(load_image(tmp_path / "image.png"), image)


def test_an_older_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    file.write_bytes(b"old")
    save_mask(file, MASK)
    assert load_mask(file, (5, 7)).any()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "", "mask.npy"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"ends in \.png") as caught:
        save_mask(tmp_path / name if name else "", MASK)
    assert caught.value.hint


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write .*No such file or directory") as caught:
        save_mask(tmp_path / "missing" / "mask.png", MASK)
    assert caught.value.hint


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Not a directory"):
        save_mask(tmp_path / "file" / "mask.png", MASK)


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        save_mask(tmp_path / "mask.png", MASK)
    assert list(tmp_path.iterdir()) == [tmp_path / "mask.png"]


def test_read_only_folder(tmp_path: Path) -> None:
    """`/proc` lets nobody write, where a mode of 0o555 does not stop root."""
    folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path
    if folder == tmp_path:
        tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="cannot write"):
        save_mask(folder / "mask.png", MASK)


def test_a_write_that_breaks_off_leaves_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "noise.npy"
    file.write_bytes(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            save_probability(file, RNG.random((64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
