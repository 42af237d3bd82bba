"""The label maps of a benchmark, where its archive or its converter leaves them; see `layouts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.classes import IGNORED
from segrefine.datasets.items import Item, Key, MaskResult, inside
from segrefine.datasets.label_maps import LabelMaps
from segrefine.datasets.layouts import FoundBenchmark
from segrefine.datasets.notation import Place
from segrefine.runtime.files.mask_values import to_indices
from segrefine.runtime.files.stored import Stored
from segrefine.storage import output_errors

_SHOWN = 3


class BenchmarkMaps(LabelMaps):
    """PASCAL VOC and Context, COCO-Object and COCO-Stuff, ADE20K, Cityscapes: one split, as it is on disk."""

    title = "benchmark label maps"
    described = "the label maps of a benchmark"
    is_unmistakable = True
    options: ClassVar[tuple[str, ...]] = ("classes", "split", "coarse")

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the masks are those of a benchmark, and not coarse ones in another folder."""
        found = place.benchmark
        return found is not None and found.classes != "objects" and place.masks == found.masks

    @property
    def _benchmark(self) -> FoundBenchmark:
        assert self.place.benchmark is not None  # `detect` has seen it
        return self.place.benchmark

    def stems_of(self, name: str) -> Sequence[str]:
        """The path of an image's label map, without its suffix."""
        return [self._benchmark.listing[name].mask.removesuffix(".png")]

    @cached_property
    def entries(self) -> dict[str, Item]:
        """The images of the split that have a label map."""
        listing, masks = self._benchmark.listing, self.place.masks
        return {
            name: Item(name=name, root=self._images, image=each.image, masks=(each.mask,))
            for name, each in listing.items()
            if (masks / each.mask).is_file()
        }

    def find_image(self, item: Item, root: Path) -> Path | None:
        """The file of an image; None where it is not there."""
        path = inside(root, item.image)
        return path if path.is_file() else None

    @property
    def lacks(self) -> Sequence[str]:
        """List the files that the split names and the folders lack, and the share of the split that exists."""
        return list_lacks(self._benchmark, len(self.entries))

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Write the label map of an image, with the values of the class list even where nothing was refined."""
        if results or self._benchmark.layout.indices is None:
            super().write(item, results, size, output)
            return
        [file] = item.masks
        target = self._target_of(output, file)
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        self.write_file(file, self.place.masks / file, target, {})

    def _target_of(self, output: Path, file: str) -> Path:
        name = Path(file).name.removesuffix(self._benchmark.layout.mask_suffix)
        return output / "masks" / f"{name}.png"

    def _indices_of(self, stored: Stored, path: Path) -> NDArray[np.int32]:
        indices = self._benchmark.layout.indices
        if indices is None:
            return super()._indices_of(stored, path)
        raw = to_indices(stored, str(path), named=range(256))
        table = np.full(2**16, IGNORED, np.int32)
        for value, index in indices.items():
            table[value] = index
        return table[raw]


def list_lacks(benchmark: FoundBenchmark, maps: int) -> list[str]:
    """A sentence for each thing that a benchmark lacks.

    Args:
        benchmark: what was found.
        maps: how many of its images have a label map.
    """
    listing, sentences = benchmark.listing, list[str]()
    images = [name for name, each in listing.items() if not (benchmark.images / each.image).is_file()]
    if images:
        sentences.append(f"{len(images)} of {len(listing)} images are missing in {benchmark.images}: {_show(images)}")
    if maps < len(listing):
        masks = [name for name, each in listing.items() if not (benchmark.masks / each.mask).is_file()]
        what = "masks" if benchmark.classes == "objects" else "label maps"
        sentences.append(f"{len(masks)} of {len(listing)} {what} are missing in {benchmark.masks}: {_show(masks)}")
    if benchmark.absent:
        sentences.append(f"{len(benchmark.absent)} sequences of the split are missing: {_show(benchmark.absent)}")
    if benchmark.twice:
        sentences.append(f"the split lists {len(benchmark.twice)} names twice, such as {benchmark.twice[0]}")
    if benchmark.expected and len(listing) != benchmark.expected:
        whole = f"the split {benchmark.split} of {benchmark.layout.title} has {benchmark.expected} images"
        sentences.append(f"{whole}, and {len(listing)} are listed here: these figures are of a part")
    return sentences


def _show(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
