"""Pictures of every kind become RGB; everything else becomes one clear error."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from segrefine.errors import ImageError
from segrefine.runtime.files.image import FORMATS, as_image, describe_turn, load_image, open_image
from segrefine.runtime.files.stored import of_picture
from tests.examples import examples

RNG = np.random.default_rng(8)
RGB = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = RGB[..., 0]
EXIF_ORIENTATION = 0x0112


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    empty = b"IDAT" + zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(empty) - 4) + empty + struct.pack(">I", zlib.crc32(empty))
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_rgb_comes_back_exactly_from_path_text_and_bytes(tmp_path: Path, kind: str) -> None:
    encoded = encode(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {}))
    file = tmp_path / "image"
    file.write_bytes(encoded)
    for source in (file, str(file), encoded):
        image = load_image(source)
        assert (image.dtype, image.shape) == (np.uint8, (6, 9, 3))
        np.testing.assert_array_equal(image, RGB)


def test_grey_and_black_and_white() -> None:
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(GREY))), np.repeat(GREY[..., None], 3, 2))
    binary = GREY > 127
    expected = np.repeat(np.where(binary, 255, 0)[..., None], 3, 2)
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(binary))), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(deep), kind)), np.repeat(GREY[..., None], 3, 2))


def test_palette() -> None:
    image = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(load_image(encode(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    options: dict[str, Any] = {}
    if mode == "P":
        image = Image.fromarray(np.array([[1, 0, 1]], np.uint8))
        image.putpalette([9, 9, 9, 0, 0, 0])
        options = {"transparency": 0}
    elif mode == "LA":
        image = image.convert("LA")
    np.testing.assert_array_equal(load_image(encode(image, **options))[0, :, 0], [0, 255, 0])


def test_half_transparent_is_half_white() -> None:
    image = load_image(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert image[0, 0].tolist() == [127, 127, 127]


def test_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = load_image(encode(image, "JPEG", quality=100))[0, 0].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    np.testing.assert_array_equal(load_image(encode(Image.fromarray(RGB), exif=exif)), np.rot90(RGB, turn))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(encoded)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel() -> None:
    assert load_image(encode(Image.new("RGB", (1, 1), "lime"))).tolist() == [[[0, 255, 0]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a picture", "no picture in a known format"),
        (b"\x89PNG\r\n\x1a\n", "no picture in a known format"),
        (b"%PDF-1.7\n", "no picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
        (encode(Image.fromarray(RGB))[:-30], "is damaged"),
        (encode(Image.fromarray(RGB), "JPEG")[:-30], "is damaged"),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point pixels"),
        (encode(Image.fromarray(GREY.astype(np.int32) * 99999), "TIFF"), "32-bit pixels"),
        (png_header(8000, 5001), "at most 40 megapixels, got 8000×5001"),
        (png_header(60_000, 60_000), "at most 40 megapixels"),
        (b"\0\0\0\x18ftypavif" + bytes(40), "the AVIF picture is damaged"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "no picture in a known format"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_forty_megapixels_pass_the_check() -> None:
    with pytest.raises(ImageError, match="is damaged"):  # there are no pixels behind the header
        load_image(png_header(8000, 5000))


def test_more_megapixels_pass_where_they_are_allowed() -> None:
    header = png_header(10_000, 8_000)
    with pytest.raises(ImageError, match="is damaged"):
        load_image(header, max_megapixels=80)
    with pytest.raises(ImageError, match="at most 79.5 megapixels, got 10000×8000") as caught:
        load_image(header, max_megapixels=79.5)
    assert "--max-megapixels" in str(caught.value.hint)
    with pytest.raises(ImageError, match="at most 178 megapixels, got 3600 megapixels") as caught:  # Pillow's own bound
        load_image(png_header(60_000, 60_000), max_megapixels=1e6)
    assert "--max-megapixels" not in str(caught.value.hint) and "no option" in str(caught.value.hint)
    with pytest.raises(ImageError, match="got 180 megapixels") as caught:
        load_image(png_header(18_000, 10_000), max_megapixels=40)
    assert "no option" in str(caught.value.hint)


@pytest.mark.parametrize(("kind", "plugin"), [("AVIF", "pillow_avif"), ("HEIF", "pillow_heif")], ids=["avif", "heic"])
def test_avif_and_heic_are_read_where_pillow_can(monkeypatch: pytest.MonkeyPatch, kind: str, plugin: str) -> None:
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow cannot write {kind} here: pip install pillow-heif")
    smooth = np.indices((32, 48)).sum(0).astype(np.uint8)[..., None].repeat(3, 2)
    encoded = encode(Image.fromarray(smooth), kind, quality=95)
    difference = load_image(encoded).astype(int) - smooth
    assert abs(difference).max() < 12
    assert of_picture(open_image(encoded, None), encoded).lossy
    monkeypatch.delitem(Image.OPEN, kind)
    monkeypatch.setitem(sys.modules, plugin, None)
    with pytest.raises(ImageError, match=f"Pillow cannot read {'HEIC' if kind == 'HEIF' else kind} here") as caught:
        load_image(encoded)
    assert plugin.replace("_", "-") in str(caught.value.hint)


def test_missing_file_folder_and_impossible_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("nul\0byte")
    with pytest.raises(ImageError, match="^the file is empty"):
        load_image(b"")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damage before it gives up
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data(), kind=st.sampled_from([kind for kind in FORMATS if kind != "PPM"]))
def test_damage_gives_a_picture_or_an_image_error(data: st.DataObject, kind: str) -> None:
    encoded = bytearray(encode(Image.fromarray(np.tile(RGB, (3, 3, 1))), kind))
    for _ in range(data.draw(st.integers(0, 6))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = load_image(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
    except ImageError:
        return
    assert image.ndim == 3
    assert image.dtype == np.uint8


class Tensor:
    """What libraries of tensors have, and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.array


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (Tensor(RGB), RGB),
        (Image.fromarray(RGB), RGB),
        (encode(Image.fromarray(RGB)), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB.astype(np.int64), RGB),
        (np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]), RGB),
        (GREY, np.repeat(GREY[..., None], 3, 2)),
        (GREY[..., None], np.repeat(GREY[..., None], 3, 2)),
        (GREY > 99, np.repeat((GREY > 99)[..., None], 3, 2) * 255),
        (np.zeros((2, 2, 4), np.uint8), np.full((2, 2, 3), 255)),
    ],
)
def test_pictures_that_python_has(given: Any, expected: np.ndarray) -> None:
    image = as_image(given)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_pictures_of_files_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(RGB), exif=exif))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(as_image(source), RGB[::-1, ::-1])


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (None, "expected an image, got NoneType", "a PIL image"),
        ([[1]], "expected an image, got list", "a PIL image"),
        (np.moveaxis(RGB, -1, 0).repeat(5, 2), r"got an array of shape \(3, ", "moveaxis"),
        (RGB[None], "got an array of shape", "one RGB picture"),
        (RGB[:0], "expected an image uint8", "as_image"),
        (RGB.astype(np.float32), "got float32 from [0-9]+ to", "scale"),
        (RGB.astype(np.float32) * np.nan, "got NaN", "scale"),
        (RGB.astype(np.int64) - 999, "got int64 from -", "scale"),
        (RGB.astype(complex), "got complex128", "scale"),
        (Image.fromarray(np.ones((2, 2), np.float32)), "floating-point pixels", "RGB"),
    ],
)
def test_what_python_has_that_is_no_picture(given: Any, message: str, hint: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        as_image(given)
    assert hint in str(caught.value.hint)


def png_with(*chunks: tuple[bytes, bytes], orientation: int | None = None) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, data in chunks:
        info.add(name, data)
    if orientation:
        xmp = f'<x tiff:Orientation="{orientation}">{"x" * 1_500_000}'
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
    return encode(Image.fromarray(RGB), pnginfo=info)


BOMB = zlib.compress(bytes(1_500_000))


@pytest.mark.parametrize(
    "encoded",
    [
        png_with((b"zTXt", b"Comment\0\0" + BOMB)),
        png_with((b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
        png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)),
        png_with((b"iCCP", b"profile\0\0" + BOMB)),
        encode(Image.fromarray(RGB), icc_profile=bytes(1_500_000)),
    ],
    ids=["text", "international text", "XMP", "profile", "Pillow's profile"],
)
def test_pngs_with_large_metadata_are_read(encoded: bytes) -> None:
    np.testing.assert_array_equal(load_image(encoded), RGB)


def test_an_orientation_in_large_metadata_counts() -> None:
    np.testing.assert_array_equal(load_image(png_with(orientation=3)), RGB[::-1, ::-1])


def test_metadata_does_not_hide_damage() -> None:
    with pytest.raises(ImageError, match="is damaged"):
        load_image(png_with((b"zTXt", b"Comment\0\0" + BOMB))[:-40])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_is_described(orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    word = describe_turn(encode(Image.fromarray(RGB), "JPEG", exif=exif))
    assert (word is None) == (orientation == 1)
    if orientation in (3, 6):
        assert word == {3: "turned by 180°", 6: "turned by 90° to the right"}[orientation]
    assert describe_turn(b"no picture") is None
