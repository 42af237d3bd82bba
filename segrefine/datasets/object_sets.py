"""DAVIS and BIG, which measure borders: for each picture the masks of its objects, without classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.benchmark_maps import list_lacks
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, Pixels, check_size, inside
from segrefine.datasets.layouts import FoundBenchmark, Layout, Listed
from segrefine.datasets.notation import AnyMask, Parts, Place
from segrefine.datasets.tree import list_files
from segrefine.errors import MaskError
from segrefine.runtime.files.image import read_bytes
from segrefine.runtime.files.output import save_label_map, save_mask
from segrefine.runtime.files.stored import decode
from segrefine.runtime.refinement import Refinement
from segrefine.storage import read_text

_WHITE = 255
_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
DAVIS = Layout(title="DAVIS", images="JPEGImages", masks=("Annotations",), classes=("objects",), lists="ImageSets")
BIG = Layout(
    title="BIG", images="", masks=("",), classes=("objects",), image_suffix="_im.jpg", mask_suffix="_gt.png"
)  # fmt: skip
_COARSE_SUFFIX = "_seg.png"


class ObjectMasks(MaskFiles):
    """A picture of object numbers, or of one object in white, for each image. Objects are called by the image's name.

    Of BIG, the masks `_seg.png` are refined, and the masks `_gt.png` are true.
    """

    title = "object masks"
    described = "masks of objects (DAVIS, BIG)"
    options = ("split", "coarse")

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Whether the images are those of DAVIS or BIG."""
        return place.benchmark is not None and place.benchmark.layout in (DAVIS, BIG)

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
        called = _called(item.name)
        masks: dict[Key, AnyMask] = {number: numbers == number for number in found}
        single = len(found) < 2
        labels: dict[Key, str] = {number: called if single else f"{called} {number}" for number in found}
        return Parts(
            size=(numbers.shape[0], numbers.shape[1]),
            masks=masks,
            labels=labels,
            prompts=dict.fromkeys(labels.values(), called),
        )

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, Refinement]) -> None:
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
        """What the split lists and the folders lack."""
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
    """What an object is called: the words of its image's name, or of the folder of its sequence."""
    words = re.findall(r"[A-Za-z]+", name.rpartition("/")[0] or name)
    return " ".join(words) or "object"


def find_objects(source: Path, split: str | None, *, to_refine: bool) -> FoundBenchmark | None:
    """DAVIS or BIG in a folder; None where neither lies there.

    Args:
        source: the folder.
        split: the split of DAVIS, or a file that lists sequences; None for `val`.
        to_refine: whether the masks are read to be refined.

    Raises:
        MaskError: there is no such split, or no image.
    """
    for root in (source, source / "DAVIS"):
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir():
            found = next((each for each in _RESOLUTIONS if (root / "Annotations" / each).is_dir()), None)
            if found:
                return _open_davis(root, found, split or "val")
    if source.is_dir() and any(source.glob("*_gt.png")) and any(source.glob("*_im.*")):
        return _open_big(source, to_refine=to_refine)
    return None


def _open_davis(root: Path, resolution: str, split: str) -> FoundBenchmark:
    masks, images = root / "Annotations" / resolution, root / "JPEGImages" / resolution
    files = [Path(split), *(root / "ImageSets" / year / f"{split}.txt" for year in ("2017", "2016"))]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        known = sorted({each.stem for each in (root / "ImageSets").glob("*/*.txt")})
        raise MaskError(f"{root} has no split {split!r}", hint=f"--split takes {', '.join(known)}")
    listing = {name: Listed(image=f"{name}.jpg", mask=f"{name}.png") for name in _frames(file, masks)}
    if not listing:
        raise MaskError(f"the split {split!r} of {root} lists no frame", hint="download the data again")
    return FoundBenchmark(
        layout=DAVIS, root=root, images=images, masks=masks, split=split, listing=listing, classes="objects"
    )  # fmt: skip


def _frames(file: Path, masks: Path) -> Iterator[str]:
    """The frames that a list names: by its sequences, or by the paths of images and masks."""
    for words in filter(None, map(str.split, read_text(file).splitlines())):
        path = Path(words[0])
        if path.suffix:
            yield f"{path.parent.name}/{path.stem}"
        else:
            folder = masks / words[0]
            yield from (f"{words[0]}/{Path(each).stem}" for each in (list_files(folder) if folder.is_dir() else ()))


def _open_big(root: Path, *, to_refine: bool) -> FoundBenchmark:
    suffix = _COARSE_SUFFIX if to_refine else BIG.mask_suffix
    listing = {}
    for file in sorted(root.glob(f"*{BIG.mask_suffix}")):
        name = file.name.removesuffix(BIG.mask_suffix)
        pictures = sorted(root.glob(f"{name}_im.*"))
        image = pictures[0].name if pictures else name + BIG.image_suffix
        listing[name] = Listed(image=image, mask=name + suffix)
    return FoundBenchmark(layout=BIG, root=root, images=root, masks=root, split="", listing=listing, classes="objects")
