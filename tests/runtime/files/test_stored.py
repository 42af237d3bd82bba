"""Pictures whose meaning Pillow alone would lose: white that is 0, 16 bits in several channels, frames, odd TIFFs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import read_mask
from tests.runtime.files.encodings import encode, raw_png

MASK = np.hypot(*np.ogrid[-20:20, -24:16]) < 12
SOFT = np.clip(1.5 - np.hypot(*np.ogrid[-20:20, -24:16]) / 24, 0, 1)
BITS, PHOTOMETRIC, SOFTWARE, FORMAT = 258, 262, 305, 339


def tiff(array: np.ndarray, **tags: Any) -> bytes:
    """A TIFF of one strip with the tags that are given; Pillow writes fewer kinds than it reads."""
    height, width = array.shape
    content = (np.packbits(array, axis=1) if array.dtype == bool else array).tobytes()
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: width, 257: height, BITS: 1 if array.dtype == bool else 8 * array.itemsize, 259: 1, PHOTOMETRIC: 1}
    values |= {273: 0, 277: 1, 278: height, 279: len(content)} | {int(tag[1:]): value for tag, value in tags.items()}
    for tag, value in values.items():
        entries[tag] = value
    stream = io.BytesIO()
    entries.save(stream)  # which adds its own length to where the strip begins
    stream.write(content)
    return stream.getvalue()


@pytest.mark.parametrize("share", [MASK, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero(share, dtype):
    full = np.iinfo(dtype).max
    levels = np.round(full * (1.0 - share)).astype(dtype)
    np.testing.assert_allclose(read_mask(tiff(levels, t262=0)), share, atol=1 / 255)
    np.testing.assert_allclose(load_image(tiff(levels, t262=0))[..., 0], 255 * share, atol=1)


def test_an_array_of_bool_by_tifffile_can_be_read_in_two_ways():
    """It says that 0 is white, and whoever saved it means 1."""
    with pytest.raises(MaskError, match="two ways") as caught:
        read_mask(tiff(MASK, t262=0, t305="tifffile.py"))
    assert "8 bits" in caught.value.hint
    np.testing.assert_array_equal(read_mask(tiff(~MASK, t262=0)), MASK)
    np.testing.assert_array_equal(read_mask(tiff(MASK, t305="tifffile.py")), MASK)


@pytest.mark.parametrize("array", [SOFT.astype(np.float64), SOFT.astype(np.float16)], ids=["64 bits", "16 bits"])
def test_a_tiff_that_is_not_read_is_called_one(array):
    with pytest.raises(ImageError, match="a TIFF of a kind that is not read"):
        read_mask(tiff(array, t339=3))


@pytest.mark.parametrize(("kind", "opaque"), [(2, ()), (4, ()), (4, (65535,)), (6, ()), (6, (65535,))])
@pytest.mark.parametrize("value", [1, 15, 255])
def test_low_levels_in_several_channels_of_16_bits_are_not_empty(value, kind, opaque):
    channels = {2: 3, 4: 2, 6: 4}[kind]
    levels = np.repeat(MASK[..., None] * value, channels, 2)
    for alpha in opaque:
        levels[..., -1] = alpha
    encoded = raw_png(levels, 16, kind)
    with pytest.raises(MaskError, match="cannot be told from 0"):
        read_mask(encoded)


@pytest.mark.parametrize("value", [256, 65535])
def test_high_levels_in_several_channels_of_16_bits(value):
    levels = np.repeat(MASK[..., None] * value, 3, 2)
    np.testing.assert_array_equal(read_mask(raw_png(levels, 16, 2)), MASK)


def test_the_first_frame_of_a_lossy_animation_has_its_noise():
    first = Image.fromarray(MASK.astype(np.uint8) * 255).convert("RGB")
    other = Image.new("RGB", first.size, (9, 90, 200))
    encoded = encode(first, "WEBP", quality=50, save_all=True, append_images=[other])
    np.testing.assert_array_equal(read_mask(encoded) > 0.5, MASK)


@pytest.mark.parametrize("width", [5, 8, 17, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_bmp_of_black_and_white_may_have_more_than_a_bit(bits: int, width: int) -> None:
    mask = MASK[:, :width] | MASK[:, -width:]
    picture = Image.fromarray(mask.astype(np.uint8)).convert("L")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    content = bytearray(encode_bmp(picture))
    if bits == 4:
        padded = np.pad(mask[::-1], ((0, 0), (0, -width % 8)))
        content[28], content[34:38] = 4, (0).to_bytes(4, "little")
        content[62:] = (padded[:, ::2] * 16 + padded[:, 1::2]).astype(np.uint8).tobytes()
    np.testing.assert_array_equal(read_mask(bytes(content)) > 0.5, mask)
    np.testing.assert_array_equal(load_image(bytes(content))[..., 0] > 127, mask)


def encode_bmp(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "BMP")
    return stream.getvalue()


def test_a_grey_map_of_16_bits_with_levels_of_8_is_refused_as_a_png_is() -> None:
    levels = np.tile(np.arange(0, 200, 5, dtype=">u2"), (40, 1))
    for content in (b"P5\n40 40\n65535\n" + levels.tobytes(), raw_png(levels, 16)):
        with pytest.raises(MaskError, match="soft levels from 0 to 65535; got 0, 5, 10"):
            read_mask(content)
    shares = read_mask(b"P5\n40 40\n1000\n" + levels.tobytes())
    np.testing.assert_allclose(shares, levels / 1000, atol=1e-4)
