"""Make the photographs that ship: `python -m training.photos.samples`.

They come from Debian's `gcompris-qt-data` and from scikit-image, each under a free licence. Their true masks were made
by GrabCut from strokes drawn by hand (`strokes.json`), and looked at.
"""

from __future__ import annotations

import json
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.corruptions import corrupt
from training.demo.sprites import unpack_debian

DRAWN_SIDE, SIDE = 512, 256
"""The longer side on which the strokes were drawn, and the one that ships, in pixels."""
PUBLIC, CC0, BY_SA = "public domain", "CC0 1.0", "CC BY-SA 4.0"
COMMONS = "https://commons.wikimedia.org/wiki/File:"


@dataclass(frozen=True)
class PhotoSample:
    """One photograph.

    Attributes:
        label: the word for its object.
        kind: how its coarse mask is spoilt, see `benchmarks.corruptions`.
        source: its path in a resource file of GCompris, or its name in scikit-image.
        author: who took it.
        licence: its terms.
        address: where it is published.
    """

    label: str
    kind: str
    source: str
    author: str
    licence: str
    address: str


SAMPLES = {
    "cow": PhotoSample("cow", "ellipse", "explore_farm_animals/cow", "Dohduhdah", PUBLIC, f"{COMMONS}Cow-IMG_2050.JPG"),
    "sheep": PhotoSample(
        "sheep", "dilate", "explore_farm_animals/sheep", "Rob Mitchell", CC0, f"{COMMONS}Sheep_(33625876592).jpg"
    ),
    "horse": PhotoSample("horse", "blob8", "erase/horse", "Eatcha", BY_SA, f"{COMMONS}Zaniskari_Horse_in_Ladakh.jpg"),
    "dog": PhotoSample(
        "dog",
        "shift",
        "explore_farm_animals/dog",
        "Hans Kemperman",
        PUBLIC,
        f"{COMMONS}German-shepherd-4040871920._(2).jpg",
    ),
    "kitten": PhotoSample(
        "cat",
        "blob8",
        "explore_farm_animals/cat",
        "Loliloli",
        PUBLIC,
        f"{COMMONS}Spielendes_K%C3%A4tzchen.JPG",
    ),
    "duck": PhotoSample(
        "bird",
        "chunks",
        "explore_farm_animals/duck",
        "Bernard Spragg",
        CC0,
        f"{COMMONS}Aylesbury_Duck._(9373723157).jpg",
    ),
    "chelsea": PhotoSample(
        "cat",
        "erode",
        "chelsea",
        "Stefan van der Walt",
        CC0,
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.chelsea",
    ),
    "astronaut": PhotoSample(
        "person",
        "ellipse",
        "astronaut",
        "NASA",
        PUBLIC,
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.astronaut",
    ),
}


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("segrefine/assets/photos"), show_default=True)
def main(output: Path) -> None:
    """Write images, coarse masks, true masks, labels and attributions to OUTPUT."""
    strokes = json.loads(Path(__file__).with_name("strokes.json").read_text())
    for folder in ("images", "masks", "truth"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        resources = unpack_debian(Path(scratch), "gcompris-qt-data") / "usr/share/gcompris-qt/rcc"
        for number, (name, sample) in enumerate(SAMPLES.items()):
            drawn = _fit(_read_photo(resources, sample.source), DRAWN_SIDE)
            image, truth = _fit(drawn, SIDE), _fit(cut_out(drawn, strokes[name]) * 255, SIDE) > 127
            coarse = corrupt(sample.kind, truth.astype(np.uint8), 1, np.random.default_rng([8, number]))
            assert coarse is not None
            cv2.imwrite(str(output / f"images/{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 88])
            for folder, mask in (("masks", coarse > 0.5), ("truth", truth)):
                cv2.imwrite(str(output / folder / f"{name}.png"), mask.astype(np.uint8) * 255)
    labels = {name: sample.label for name, sample in SAMPLES.items()}
    (output / "labels.json").write_text(json.dumps(labels, indent=2) + "\n")
    (output / "ATTRIBUTION.md").write_text(attribution())


def attribution() -> str:
    """The text of `ATTRIBUTION.md`."""
    lines = [
        "# Photographs",
        "",
        "All eight were scaled to at most 256 pixels. GCompris had already cropped and sharpened its own.",
        "The masks were made for segrefine. They are under the terms of the photograph that they belong to.",
        "",
        "| photograph | author | licence | published at | taken from |",
        "|---|---|---|---|---|",
    ]
    for name, sample in SAMPLES.items():
        package = "GCompris (Debian package gcompris-qt-data)" if "/" in sample.source else "scikit-image"
        lines.append(f"| {name} | {sample.author} | {sample.licence} | <{sample.address}> | {package} |")
    return "\n".join(lines) + "\n"


def cut_out(image: NDArray[np.uint8], strokes: dict[str, list]) -> NDArray[np.uint8]:  # type: ignore[type-arg]
    """The object as 0 and 1, uint8 (H, W).

    Args:
        image: uint8 (H, W, 3) BGR.
        strokes: "outline" is a generous polygon; "object" and "background" are strokes over what is sure.
    """
    marks = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    cv2.fillPoly(marks, [np.array(strokes["outline"])], cv2.GC_PR_BGD)
    inner = cv2.erode((marks == cv2.GC_PR_BGD).astype(np.uint8), np.ones((15, 15)))
    marks[inner > 0] = cv2.GC_PR_FGD
    for key, value in (("object", cv2.GC_FGD), ("background", cv2.GC_BGD)):
        for stroke in strokes[key]:
            cv2.polylines(marks, [np.array(stroke["points"])], False, value, stroke["width"])
    cv2.setRNGSeed(0)
    cv2.grabCut(image, marks, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_MASK)
    found = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
    without_specks = _drop_small(found, 80)
    return 1 - _drop_small(1 - without_specks, 40)


def _drop_small(mask: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    count, parts, figures, _ = cv2.connectedComponentsWithStats(mask)
    kept = [part for part in range(1, count) if figures[part, cv2.CC_STAT_AREA] > least]
    return np.isin(parts, kept).astype(np.uint8)


def _fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape[:2])
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _read_photo(resources: Path, source: str) -> NDArray[np.uint8]:
    """A photograph, uint8 (H, W, 3) BGR."""
    if "/" in source:
        activity, name = source.split("/")
        files = dict(read_resources((resources / f"{activity}.rcc").read_bytes()))
        (content,) = (data for path, data in files.items() if path.endswith(f"/{name}.webp"))
    else:
        from skimage import data

        content = (Path(data.__file__).parent / f"{source}.png").read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def read_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in a compiled Qt resource file."""
    if data[:4] != b"qres":
        raise ValueError(f'expected a Qt resource file, which starts with "qres"; got {data[:4]!r}')
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    width = 14 if version < 2 else 22

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * width
        name, flags = struct.unpack(">IH", data[at : at + 6])
        if node:
            (length,) = struct.unpack(">H", data[names + name : names + name + 2])
            path += "/" + data[names + name + 6 : names + name + 6 + 2 * length].decode("utf-16be")
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack(">I", data[at + 10 : at + 14])
        (size,) = struct.unpack(">I", data[contents + offset : contents + offset + 4])
        content = data[contents + offset + 4 : contents + offset + 4 + size]
        yield path, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


if __name__ == "__main__":
    main()
