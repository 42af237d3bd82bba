"""Masks in every common notation become the same probability; what cannot be refined is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.mask import as_mask, check_mask, load_mask, read_mask
from segrefine.runtime.files.output import voc_colours
from tests.examples import examples
from tests.runtime.files.encodings import ALWAYS_READ, Encoded, agrees, encoded_masks, raw_png
from tests.runtime.files.encodings import encode as png
from tests.runtime.files.encodings import encode_npy as npy

MASK = np.zeros((5, 8), bool)
MASK[1:4, 2:7] = True
SOFT = np.linspace(0, 1, 40, dtype=np.float32).reshape(5, 8)


STEP = np.arange(40, dtype=np.uint8).reshape(5, 8)


def palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colours)
    return image


def coloured(alpha: np.ndarray) -> Image.Image:
    image = Image.new("RGBA", (8, 5), (200, 30, 90, 255))
    image.putalpha(Image.fromarray(alpha))
    return image


BYTES = MASK.astype(np.uint8)
ALPHA = Image.fromarray(BYTES * 255)
TWO_CHANNELS = Image.merge("LA", [ALPHA, ALPHA])
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
    "label map on white": png(palette(BYTES * 7, [255, 255, 255, *[90, 0, 0] * 60])),
    "0 and 1 of 8 bits": png(BYTES),
    "0 and 15": png(BYTES * 15),
    "0 and 128": png(BYTES * 128),
    "16 bits, 0 and 255": png(BYTES.astype(np.uint16) * 255),
    "16 bits, 0 and 15": png(BYTES.astype(np.uint16) * 15),
    "TIFF of 32 bits, 0 and 70000": png(BYTES.astype(np.int32) * 70000, "TIFF"),
    "4 bits, 0 and 7": raw_png(BYTES * 7, 4),
    "2 bits, 0 and 1": raw_png(BYTES, 2),
    "4 bits, transparent 3": raw_png(np.where(MASK, 9, 3), 4, tRNS=b"\0\3"),
    "1 bit, transparent white": raw_png(~MASK, 1, tRNS=b"\0\1"),
    "16 bits, transparent white": raw_png(np.where(MASK, 0, 65535), 16, tRNS=b"\xff\xff"),
    "PGM of 15 levels": b"P2 8 5 15\n" + " ".join(map(str, BYTES.ravel() * 15)).encode(),
    "TIFF of 12 bits": png(BYTES.astype(np.uint16) * 4095, "TIFF"),
    "WebP, lossless": png(BYTES * 255, "WEBP", lossless=True),
    "BMP": png(BYTES * 255, "BMP"),
    "BMP, black on transparent": png(Image.merge("RGBA", [*[Image.fromarray(255 - BYTES * 255)] * 3, ALPHA]), "BMP"),
    "GIF, red on transparent": png(coloured(BYTES * 255), "GIF"),
    "PNG-8, black on transparent": png(Image.merge("RGBA", [*[Image.new("L", (8, 5))] * 3, ALPHA]).quantize()),
    "RGB, transparent black": png(np.where(MASK[..., None], (200, 30, 90), 0).astype(np.uint8), transparency=(0, 0, 0)),
    "LA, black on transparent": png(Image.merge("LA", [Image.new("L", (8, 5)), ALPHA])),
    "half-opaque paint": png(coloured(BYTES * 128)),
    "black and white, some of the black transparent": png(
        Image.merge("LA", [ALPHA, Image.fromarray(np.where(np.eye(5, 8) > MASK, 0, 255).astype(np.uint8))])
    ),
    "palette of greys, white first": png(palette(1 - BYTES, [255, 255, 255, 0, 0, 0])),
    "palette of greys, 0 and 15": png(palette(3 - BYTES, [9, 9, 9, 9, 9, 9, 15, 15, 15, 0, 0, 0])),
    "VOC's colours, border transparent": png(palette(BYTES * 15, voc_colours(256).ravel().tolist()), transparency=255),
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
    "npy float, 0 and 255": npy(MASK * 255.0),
    "npy int64, 0 and 3": npy(MASK.astype(np.int64) * 3),
    "npy of one channel": npy(MASK[None]),
    "npy of one channel, last": npy(MASK[..., None]),
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


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.integers(0, 255), min_size=6, max_size=6), st.integers(64, 191))
def test_eight_bits_are_shares_of_255(values: list[int], level: int) -> None:
    pixels = np.array([0, level, *values, 255], np.uint8).reshape(3, 3)
    np.testing.assert_allclose(load_mask(png(pixels), (3, 3)), pixels / 255, atol=1e-7)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_of_lossy_formats_stays_soft(kind: str, mode: str) -> None:
    mask = np.kron(MASK, np.ones((16, 16), bool))
    encoded = png(Image.fromarray(mask * np.uint8(255)).resize((127, 79)).convert(mode), kind, quality=60)
    probability = read_mask(encoded)
    assert len(np.unique(probability)) > 4
    np.testing.assert_array_equal(probability[::8, ::8] > 0.5, mask[::8, ::8])


def check_reading(encoded: Encoded) -> None:
    """A file is read as what it means, or there is an error: never another mask."""
    try:
        found = read_mask(encoded.content)
    except MaskError as error:
        assert error.hint and not encoded.how.startswith(ALWAYS_READ)
    else:
        assert agrees(found, encoded)


@settings(max_examples=examples(300), deadline=None)
@given(encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded(encoded: Encoded) -> None:
    check_reading(encoded)


@pytest.mark.slow
@settings(max_examples=examples(2500), deadline=None)
@given(encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded_often(encoded: Encoded) -> None:
    check_reading(encoded)


@pytest.mark.parametrize("encoded", [png(BYTES * 255), npy(SOFT)])
def test_another_size_is_refused_in_the_order_people_say_it(encoded: bytes) -> None:
    with pytest.raises(MaskError, match="expected a mask of 5×8 pixels, as the image; got 8×5") as caught:
        load_mask(encoded, (8, 5))
    assert "turned by its EXIF orientation" in str(caught.value.hint)
    with pytest.raises(MaskError, match="expected a mask of 9×5 pixels") as caught:
        load_mask(encoded, (5, 9))
    assert "resize" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (png(BYTES * 0), "is empty"),
        (png(palette(BYTES * 0, [0, 0, 0, 255, 0, 0])), "is empty"),
        (png(BYTES * 0 + 1), "covers the whole image"),
        (png(BYTES * 0 + 255), "covers the whole image"),
        (png(BYTES * 0 + 100), "expected 0 and one other value, or soft levels from 0 to 255; got 100"),
        (png(STEP * 3), "is empty"),
        (png(BYTES + np.eye(5, 8, dtype=np.uint8)), "got 0, 1 and 2"),
        (png(np.where(STEP < 9, 255, BYTES * 15).astype(np.uint8)), "got 0, 15 and 255"),
        (png(np.where(STEP < 9, 77, BYTES * 137).astype(np.uint8)), "got 0, 77 and 137"),
        (png(BYTES + np.uint8(1)), "got 1 and 2"),
        (png(STEP % 11), r"got 0, 1, 2, 3, 4, … 10 \(11 values\)"),
        (png(STEP.astype(np.uint16) * 6), r"soft levels from 0 to 65535; got 0, 6, 12, .* 234 \(40 values\)"),
        (png(np.where(STEP < 9, 7, MASK * 33001).astype(np.uint16)), "got 0, 7 and 33001"),
        (raw_png(STEP % 3, 2), "soft levels from 0 to 3; got 0, 1 and 2"),
        (raw_png(np.where(STEP < 9, 1, BYTES * 15), 4), "soft levels from 0 to 15; got 0, 1 and 15"),
        (png(palette(STEP % 3, [0, 0, 0, 1, 1, 1, 2, 2, 2])), "got 0, 1 and 2"),
        (png(palette(BYTES * 2, [9] * 9)), "shows the indices 0 and 2 in one colour"),
        (raw_png(BYTES * 7, 8, 3, PLTE=b"\0\0\0\t\t\t"), "index 7 has no colour in the palette of 2"),
        (png(palette(BYTES * 2, [90, 0, 0, *[0] * 6])), r"background.*0 is \(90, 0, 0\); 2 is \(0, 0, 0\)"),
        (png(palette(BYTES + 1, [0, 0, 0, 200, 0, 0, 0, 0, 90])), "cannot tell the background"),
        (png(Image.merge("LA", [Image.fromarray(STEP * 6), ALPHA])), "by its transparency, or by the visible levels"),
        (png(palette(STEP % 3, [0, 0, 0, 200, 0, 0, 9, 9, 90]), transparency=2), "or as a label map"),
        (png(coloured(BYTES * 155 + 100)), "expected a transparent background, got an opacity of 100 and 255"),
        (png(coloured(STEP * 3)), "expected a transparent background"),
        (png(coloured(BYTES * 0)), "is empty"),
        (png(Image.merge("LA", [ALPHA, Image.new("L", (8, 5))])), "every pixel of the mask is transparent"),
        (png(Image.fromarray(BYTES * 15), "JPEG"), "as far as JPEG keeps them; got levels from 0"),
        (png(np.kron(BYTES * 0 + 99, np.ones((16, 16), np.uint8)), "JPEG"), "got 99 everywhere"),
        (
            png(TWO_CHANNELS, "TIFF").replace(b"\x52\1\3\0\1\0\0\0\2", b"\x52\1\3\0\1\0\0\0\0"),
            "a further channel of no stated meaning",
        ),
        (npy(SOFT * 0.4), "is empty"),
        (npy(SOFT * 255), "from 0 to 1, got 0 to [0-9]+"),
        (npy(SOFT - 0.5), "from 0 to 1, got -0.5 to 0.[0-9]+"),
        (npy(np.where(MASK, np.nan, 0.0)), "from 0 to 1, got NaN"),
        (npy(np.where(MASK, np.inf, 0.0)), "from 0 to 1, got 0 to inf"),
        (npy(STEP.astype(np.int64) % 4), "got 0, 1, 2 and 3"),
        (npy(-MASK.astype(np.int32)), "got -1 and 0"),
        (npy(np.repeat(SOFT[None], 2, 0)), r"of shape \(2, 5, 8\)"),
        (npy(np.zeros((0, 8))), r"of shape \(0, 8\)"),
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
    with pytest.raises(MaskError, match="holds objects"):
        load_mask(npy(np.array([[{}]], object)), (1, 1))


def test_files_that_are_no_mask_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    for content, message in ((b"", "is empty"), (b"no mask", "no picture"), (png(BYTES)[:-20], "is damaged")):
        file.write_bytes(content)
        with pytest.raises(ImageError, match=message) as caught:
            load_mask(file, (5, 8))
        assert str(file) in str(caught.value)


def test_arrays_are_checked_like_files() -> None:
    check_mask(SOFT, (5, 8))
    with pytest.raises(MaskError, match="expected a mask of 8×5 pixels, as the image; got 40"):
        check_mask(SOFT.ravel(), (5, 8))


class Tensor:
    """What libraries of tensors have, and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.array.dtype == object:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


@pytest.mark.parametrize("make", [lambda array: array, Tensor, Image.fromarray])
@pytest.mark.parametrize("array", [MASK, BYTES, BYTES * 255, BYTES * 15], ids=["bool", "0 and 1", "0 and 255", "0, 15"])
def test_masks_that_python_has(make: Any, array: np.ndarray) -> None:
    probability = as_mask(make(array), (5, 8))
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability, MASK)


def test_soft_masks_files_and_pictures_in_python(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    file.write_bytes(png(BYTES))
    for source in (file, str(file), png(BYTES), Image.open(file), Image.open(file).convert("RGBA"), MASK[None]):
        np.testing.assert_array_equal(as_mask(source, (5, 8)), MASK)
    for soft in (SOFT, SOFT.astype(np.float64), Tensor(SOFT), SOFT[..., None]):
        np.testing.assert_array_equal(as_mask(soft), SOFT)
    assert as_mask(SOFT) is SOFT
    np.testing.assert_allclose(as_mask(Image.fromarray(np.round(SOFT * 65535).astype(np.uint16))), SOFT, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ([[0.0, 1.0]], "expected a mask, got list", "an array"),
        (None, "expected a mask, got NoneType", "an array"),
        (Tensor(np.array([None])), "cannot be read as an array: can't convert cuda", "cpu()"),
        (np.array([[None]]), "a mask of numbers, got object", "float32"),
        (MASK.T, "expected a mask of 8×5 pixels, as the image; got 5×8", "EXIF"),
        (SOFT * 2, "from 0 to 1, got 0 to 2", "scale"),
        (STEP % 3, "got 0, 1 and 2", "class indices"),
        (np.dstack([MASK, MASK]), r"of shape \(5, 8, 2\)", "one channel"),
    ],
)  # fmt: skip
def test_what_python_has_that_is_no_mask(given: Any, message: str, hint: str) -> None:
    with pytest.raises(MaskError, match=message) as caught:
        as_mask(given, (5, 8))
    assert hint in str(caught.value.hint)
