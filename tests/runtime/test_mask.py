"""Masks in every common notation become the same probability; what cannot be refined is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segrefine.errors import ImageError, MaskError
from segrefine.runtime.mask import check_mask, load_mask

MASK = np.zeros((5, 8), bool)
MASK[1:4, 2:7] = True
SOFT = np.linspace(0, 1, 40, dtype=np.float32).reshape(5, 8)


def png(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colours)
    return image


def coloured(alpha: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", (8, 5), (200, 30, 90, 255))
    image.putalpha(Image.fromarray(alpha))
    return image


BYTES = MASK.astype(np.uint8)
BINARY = {
    "0 and 1": png(BYTES),
    "0 and 255": png(BYTES * 255),
    "one bit": png(MASK),
    "16 bits, 0 and 1": png(BYTES.astype(np.uint16)),
    "16 bits": png(BYTES.astype(np.uint16) * 65535),
    "grey as RGB": png(np.repeat(BYTES[..., None] * 255, 3, 2)),
    "grey with constant alpha": png(Image.merge("LA", [Image.fromarray(BYTES * 255), Image.new("L", (8, 5), 255)])),
    "alpha": png(coloured(BYTES * 255)),
    "label map": png(palette(BYTES * 7, [0, 0, 0, *range(3, 60)])),
    "label map, index above one black": png(palette(BYTES * 7, [90, 0, 0, *[0] * 60])),
    "black and white palette": png(palette(BYTES, [0, 0, 0, 255, 255, 255])),
    "white and black palette": png(palette(1 - BYTES, [255, 255, 255, 0, 0, 0])),
    "GIF": png(BYTES * 255, "GIF"),
    "PGM": png(BYTES * 255, "PPM"),
    "npy bool": npy(MASK),
    "npy int64": npy(MASK.astype(np.int64)),
    "npy 0 and 255": npy(BYTES * 255),
    "npy int32 0 and 255": npy(MASK.astype(np.int32) * 255),
    "npy int64 0 and 255": npy(MASK.astype(np.int64) * 255),
    "npy float64": npy(MASK.astype(np.float64)),
}


@pytest.mark.parametrize("notation", BINARY)
def test_binary_masks(tmp_path: Path, notation: str) -> None:
    file = tmp_path / "mask"
    file.write_bytes(BINARY[notation])
    for source in (file, BINARY[notation]):
        probability = load_mask(source, (5, 8))
        assert probability.dtype == np.float32
        np.testing.assert_array_equal(probability, MASK)


@pytest.mark.parametrize(
    ("encoded", "error"),
    [
        (png(np.round(SOFT * 255).astype(np.uint8)), 0.5 / 255),
        (png(np.round(SOFT * 65535).astype(np.uint16)), 0.5 / 65535),
        (png(np.round(SOFT * 65535).astype(np.uint16), "PPM"), 0.5 / 65535),
        (png(coloured(np.round(SOFT * 255).astype(np.uint8))), 0.5 / 255),
        (png(SOFT, "TIFF"), 0),
        (npy(SOFT), 0),
        (npy(SOFT.astype(np.float16)), 3e-4),
        (npy(np.round(SOFT * 65535).astype(np.uint16)), 0.5 / 65535),
    ],
    ids=["8 bits", "16 bits", "16-bit PGM", "alpha", "TIFF float", "npy", "npy half", "npy 16 bits"],
)
def test_soft_masks(encoded: bytes, error: float) -> None:
    np.testing.assert_allclose(load_mask(encoded, (5, 8)), SOFT, rtol=0, atol=error + 1e-7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=6, max_size=6).filter(lambda v: max(v) > 127 and min(v) < 128))
def test_eight_bits_are_shares_of_255(values: list[int]) -> None:
    pixels = np.array(values, np.uint8).reshape(2, 3)
    np.testing.assert_allclose(load_mask(png(pixels), (2, 3)), pixels / 255, atol=1e-7)


@pytest.mark.parametrize("encoded", [png(BYTES * 255), npy(SOFT)])
def test_another_size_is_refused_in_the_order_people_say_it(encoded: bytes) -> None:
    with pytest.raises(MaskError, match="expected a mask of 5×8 pixels, as the image, got 8×5") as caught:
        load_mask(encoded, (8, 5))
    assert "resize" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (png(BYTES * 0), "is empty"),
        (png(BYTES * 0 + 100), "is empty"),
        (png(palette(BYTES * 0, [0, 0, 0, 255, 0, 0])), "is empty"),
        (png(BYTES * 0 + 1), "covers the whole image"),
        (png(BYTES * 0 + 255), "covers the whole image"),
        (npy(SOFT * 0.4), "is empty"),
        (npy(SOFT * 255), "from 0 to 1, got 0 to [0-9]+"),
        (npy(SOFT - 0.5), "from 0 to 1, got -0.5 to 0.[0-9]+"),
        (npy(np.where(MASK, np.nan, 0.0)), "from 0 to 1, got NaN"),
        (npy(MASK.astype(np.int64) * 3), "from 0 to 1, got 0 to 3"),
        (npy(-MASK.astype(np.int32)), "from 0 to 1, got -1 to 0"),
        (npy(np.repeat(SOFT[None], 2, 0)), r"of shape \(2, 5, 8\)"),
        (npy(np.full((5, 8), "fox")), "a mask of numbers"),
        (npy(SOFT.astype(complex)), "a mask of numbers"),
        (npy(SOFT)[:-9], "is damaged"),
        (npy(SOFT)[:20], "is damaged"),
        (npy(SOFT).replace(b"}", b"{"), "is damaged"),
        (png(np.dstack([BYTES * 200, BYTES * 30, BYTES])), "got colours"),
        (png(Image.new("LAB", (8, 5)), "TIFF"), r"got colours \(LAB\)"),
        (png(Image.new("CMYK", (8, 5)), "TIFF"), r"got colours \(CMYK\)"),
        (png(np.zeros((1, 1), np.uint8)), "expected a mask of 8×5"),
    ],
)
def test_masks_that_cannot_be_refined(encoded: bytes, message: str) -> None:
    with pytest.raises(MaskError, match=message) as caught:
        load_mask(encoded, (5, 8))
    assert caught.value.hint


def test_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "coarse.png"
    file.write_bytes(png(BYTES * 0))
    with pytest.raises(MaskError, match="coarse.png: the mask is empty"):
        load_mask(file, (5, 8))


@pytest.mark.parametrize("mask", [[[0.0, 1.0]], MASK, BYTES * 255, None])
def test_only_arrays_of_floats_are_masks_in_python(mask: object) -> None:
    with pytest.raises(MaskError, match="expected a mask as an array of floats, got") as caught:
        check_mask(mask, (5, 8))  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize("value", [0, 255])
def test_one_pixel_has_no_border(value: int) -> None:
    with pytest.raises(MaskError):
        load_mask(png(np.full((1, 1), value, np.uint8)), (1, 1))


def test_pickled_arrays_are_never_loaded() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(MaskError, match="holds objects"):
        load_mask(buffer.getvalue(), (1, 1))


def test_files_that_are_no_mask_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    for content, message in ((b"", "is empty"), (b"no mask", "no picture"), (png(BYTES)[:-20], "is damaged")):
        file.write_bytes(content)
        with pytest.raises(ImageError, match=message) as caught:
            load_mask(file, (5, 8))
        assert str(file) in str(caught.value)


def test_arrays_are_checked_like_files() -> None:
    check_mask(SOFT, (5, 8))
    with pytest.raises(MaskError, match="expected a mask of 8×5 pixels, as the image, got 40"):
        check_mask(SOFT.ravel(), (5, 8))
