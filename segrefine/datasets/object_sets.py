"""DAVIS and BIG, which measure borders: for each picture the masks of its objects, without classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.annotation_files import find_twice
from segrefine.datasets.benchmark_maps import list_lacks
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size, inside
from segrefine.datasets.layouts import FoundBenchmark, Layout, Listed
from segrefine.datasets.notation import AnyMask, Parts, Place
from segrefine.datasets.tree import list_files, list_subfolders
from segrefine.errors import MaskError
from segrefine.runtime.files.image import read_bytes
from segrefine.runtime.files.output import save_label_map, save_mask
from segrefine.runtime.files.stored import decode
from segrefine.storage import read_text

_WHITE = 255
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
DAVIS = Layout(title="DAVIS", images="JPEGImages", masks=("Annotations",), classes=("objects",), lists="ImageSets")
BIG = Layout(
    title="BIG", images="", masks=("",), classes=("objects",), image_suffix="_im.jpg", mask_suffix="_gt.png",
    splits={"val": "val", "test": "test"}, counts={"val": 50, "test": 100},
)  # fmt: skip
_COARSE_SUFFIX = "_seg.png"


class ObjectMasks(MaskFiles):
    """A picture of object numbers, or of one object in white, for each image. Objects are called by the image's name.

    Objects from the second on have their number too, so that each finds its partner where another one vanished. In a
    picture with other numbers, 255 is of no object, and does not count.

    Of BIG, the masks `_seg.png` are refined, and the masks `_gt.png` are true.
    """

    title = "object masks"
    described = "masks of objects (DAVIS, BIG)"
    options = ("split", "coarse")

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the images are those of DAVIS or BIG."""
        return place.benchmark is not None and place.benchmark.layout in (DAVIS, BIG)

    @property
    def benchmarks(self) -> Sequence[str]:
        """The one that the images are of; none for predicted masks alone."""
        return (self.place.benchmark.layout.title.lower(),) if self.place.benchmark is not None else ()

    def stems_of(self, name: str) -> Sequence[str]:
        """The path of an image's mask, without its suffix."""
        benchmark = self.place.benchmark
        own = benchmark is not None and self.place.masks == benchmark.masks
        return [benchmark.listing[name].mask.removesuffix(".png")] if benchmark is not None and own else [name]

    @cached_property
    def entries(self) -> dict[str, Item]:
        """The images that have masks."""
        benchmark = self.place.benchmark
        if benchmark is None:
            return super().entries
        return {
            name: Item(name=name, root=benchmark.images, image=each.image, masks=(each.mask,))
            for name, each in benchmark.listing.items()
            if (benchmark.masks / each.mask).is_file()
        }

    def find_image(self, item: Item, root: Path) -> Path | None:
        """The file of an image; None where it is not there."""
        path = inside(root, item.image)
        return path if item.image and path.is_file() else None

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the masks of the objects in an image."""
        [(file, path)] = files.items()
        numbers = _read_numbers(path)
        if image is not None:
            check_size(numbers.shape, (image.shape[0], image.shape[1]), file)
        found = [number for number in np.unique(numbers).tolist() if number]
        void = numbers == _WHITE if len(found) > 1 and _WHITE in found else None
        called = _called(item.name)
        masks: dict[Key, AnyMask] = {n: numbers == n for n in found if void is None or n != _WHITE}
        labels: dict[Key, str] = {n: called if n in (1, _WHITE) else f"{called} {n}" for n in masks}
        return Parts(
            size=(numbers.shape[0], numbers.shape[1]),
            masks=masks,
            labels=labels,
            prompts=dict.fromkeys(labels.values(), called),
            ignored=void,
        )

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the refined masks: white for one object alone, otherwise object numbers."""
        numbers = np.where(np.isin(_read_numbers(source), list(map(int, results))), 0, _read_numbers(source))
        for number, result in results.items():
            numbers[result.mask] = int(number)
        if set(np.unique(numbers).tolist()) <= {0, _WHITE}:
            save_mask(target, numbers > 0)
        else:
            save_label_map(target, numbers)

    def _target_of(self, output: Path, file: str) -> Path:
        name = file.removesuffix(_COARSE_SUFFIX).removesuffix(BIG.mask_suffix)
        return output / "masks" / (name if name.endswith((".png", ".npy")) else f"{name}.png")

    @property
    def lacks(self) -> Sequence[str]:
        """List the files that the split names and the folders lack."""
        benchmark = self.place.benchmark
        return list_lacks(benchmark, len(self.entries)) if benchmark is not None else ()


def _read_numbers(path: Path) -> NDArray[np.int32]:
    """The object numbers (H, W) of a picture; a grey one that is not all black and white is cut at one half."""
    stored = decode(read_bytes(path), str(path))
    values = stored.values
    if values.ndim == 3:
        values = values[..., :3].max(-1)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise MaskError(subject=path, expected="a picture of object numbers", got=f"{values.dtype} {values.shape}",
                        hint="save it as a palette or grey PNG")  # fmt: skip
    if values.dtype == np.bool_:
        return np.where(values, _WHITE, 0).astype(np.int32)
    if stored.palette is None and values.max() > _WHITE // 2:
        return np.where(values > _WHITE // 2, _WHITE, 0).astype(np.int32)
    return values.astype(np.int32)


def _called(name: str) -> str:
    """The words of an image's name, or of the folder of its sequence."""
    words = re.findall(r"[A-Za-z]+", name.rpartition("/")[0] or name)
    return " ".join(words) or "object"


def find_objects(source: Path, split: str | None, *, to_refine: bool) -> FoundBenchmark | None:
    """DAVIS or BIG in a folder; None where neither lies there.

    Args:
        source: the folder.
        split: the split, or a file that lists the sequences of DAVIS; None for `val`.
        to_refine: whether the masks are read to be refined.

    Raises:
        MaskError: there is no such split, or no image.
    """
    for root in (source, source / "DAVIS"):
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir():
            found = next((each for each in _RESOLUTIONS if (root / "Annotations" / each).is_dir()), None)
            if found:
                return _open_davis(root, found, split or "val")
    return _find_big(source, split, to_refine=to_refine)


def _open_davis(root: Path, resolution: str, split: str) -> FoundBenchmark:
    masks, images = root / "Annotations" / resolution, root / "JPEGImages" / resolution
    files = [Path(split), *(root / "ImageSets" / year / f"{split}.txt" for year in ("2017", "2016"))]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        known = sorted({each.stem for each in (root / "ImageSets").glob("*/*.txt")})
        raise MaskError(f"it has no split {split!r}", subject=root, hint=f"--split takes {', '.join(known)}")
    names, absent = _frames(file, images, masks)
    if not names:
        raise MaskError(f"the split {split!r} lists no frame", subject=root, hint="download the data again")
    return FoundBenchmark(
        layout=DAVIS, root=root, images=images, masks=masks, split=split, classes="objects", absent=absent,
        listing={name: Listed(image=f"{name}.jpg", mask=f"{name}.png") for name in names},
        twice=find_twice(names),
    )  # fmt: skip


def _frames(file: Path, images: Path, masks: Path) -> tuple[list[str], list[str]]:
    """The frames that a list names by paths or by their sequences, and the sequences that are missing."""
    names: list[str] = []
    absent: list[str] = []
    for words in filter(None, map(str.split, read_text(file).splitlines())):
        path = Path(words[0])
        if path.suffix:
            names.append(f"{path.parent.name}/{path.stem}")
        elif frames := _frames_of(words[0], images, masks):
            names += frames
        else:
            absent.append(words[0])
    return names, absent


def _frames_of(sequence: str, images: Path, masks: Path) -> list[str]:
    """The frames of a sequence that have an image or masks, and those that lack both between them."""
    folders = [folder for folder in (images / sequence, masks / sequence) if folder.is_dir()]
    stems = {Path(each).stem for folder in folders for each in list_files(folder)}
    numbers = [stem for stem in stems if re.fullmatch("[0-9]{5}", stem)]
    stems |= {f"{number:05d}" for number in range(int(max(numbers, default="0")) if numbers else 0)}
    return [f"{sequence}/{stem}" for stem in sorted(stems)]


def _find_big(source: Path, split: str | None, *, to_refine: bool) -> FoundBenchmark | None:
    """BIG in a folder of one split, or in the folder above; None where it does not lie there."""
    if not source.is_dir():
        return None
    if _holds_big(source):
        own = source.name if source.name in BIG.splits else ""
        if split not in (None, own):
            raise MaskError(
                f"it has no split {split!r}", subject=source, hint="name the folder of the split, without --split"
            )
        return _open_big(source, own, to_refine=to_refine)
    known = [name for name in list_subfolders(source) if name in BIG.splits and _holds_big(source / name)]
    if not known:
        return None
    wanted = split or "val"
    if wanted not in known:
        raise MaskError(f"it has no split {wanted!r}", subject=source, hint=f"--split takes {', '.join(known)}")
    return _open_big(source / wanted, wanted, to_refine=to_refine)


def _holds_big(folder: Path) -> bool:
    return any(folder.glob("*_gt.png")) and any(folder.glob("*_im.*"))


def _open_big(root: Path, split: str, *, to_refine: bool) -> FoundBenchmark:
    suffix = _COARSE_SUFFIX if to_refine else BIG.mask_suffix
    images = {file.stem.removesuffix("_im"): file.name for file in sorted(root.glob("*_im.*"))}
    names = images.keys() | {file.name.removesuffix(BIG.mask_suffix) for file in root.glob(f"*{BIG.mask_suffix}")}
    listing = {
        name: Listed(image=images.get(name, name + BIG.image_suffix), mask=name + suffix) for name in sorted(names)
    }
    return FoundBenchmark(
        layout=BIG, root=root, images=root, masks=root, split=split, listing=listing, classes="objects"
    )  # fmt: skip
