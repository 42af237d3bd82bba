"""Outputs of `segrefine segment`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.outputs import check_outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segrefine.runtime.segmentation import Segment, Segmentation

_MAP = re.compile(r"\d\d+-.*\.(mask|probability|uncertainty)\.png")


@dataclass(frozen=True, kw_only=True)
class SegmentOutputs:
    """Outputs to write; None leaves one out."""

    labels: Path
    overlay: Path | None
    cutout: Path | None
    sheet: Path | None
    maps: Path | None
    uncertainty: bool

    def check(self, image: Path, phrases: Sequence[str]) -> None:
        """Checks the places before the work is done.

        Args:
            image: the picture that is read.
            phrases: what is looked for.

        Raises:
            OutputError: a file has no place.
            click.UsageError: a file would be written over, or an option lacks another.
        """
        if self.uncertainty and not self.maps:
            raise click.UsageError("--uncertainty is written with the other maps: add --maps DIR")
        named = {"--output": self.labels, "--overlay": self.overlay, "--cutout": self.cutout,
                 "--sheet": self.sheet, "--maps": self.maps}  # fmt: skip
        named |= {f"--maps, with its {path.name}:": path for path in self._list_maps(phrases) if path.parent.is_dir()}
        check_outputs({name: path for name, path in named.items() if path}, {"the image to segment": image})

    def warnings(self, phrases: Sequence[str]) -> Iterator[str]:
        """Yield a warning if the folder of maps also holds maps that another run left there."""
        ours = {path.name for path in self._list_maps(phrases)}
        there = self.maps.glob("*.*.png") if self.maps else ()
        if left := sorted(path.name for path in there if _MAP.fullmatch(path.name) and path.name not in ours):
            yield f"{self.maps} also holds maps of another run: {', '.join(left)}"

    def _list_maps(self, phrases: Sequence[str]) -> list[Path]:
        """The files of all phrases' maps."""
        if not self.maps:
            return []
        parts = (self._map_files(self.maps, number, phrase) for number, phrase in enumerate(phrases, 1))
        return [path for files in parts for path in files.values()]

    def _map_files(self, folder: Path, number: int, phrase: str) -> dict[str, Path]:
        """The files of one phrase's maps, by what they show."""
        words = re.sub(r"\W+", "-", phrase.casefold()).strip("-")
        stem = f"{number:02d}-{words[:40]}"
        kinds = ("mask", "probability", *(["uncertainty"] if self.uncertainty else []))
        return {kind: folder / f"{stem}.{kind}.png" for kind in kinds}

    def write(
        self, image: NDArray[np.uint8], result: Segmentation, numbers: Sequence[int], nothing: int
    ) -> dict[str, Any]:
        """Write it, each file as a whole; gives the files by name.

        Args:
            image: the picture.
            result: what was found.
            numbers: of the segments in the label map.
            nothing: number of pixels that are in no segment.
        """
        from segrefine.runtime.drawing.pictures import overlay_labels
        from segrefine.runtime.files.output import save_cutout, save_image, save_label_map
        from segrefine.runtime.refinement import index_map
        from segrefine.storage import output_errors

        probabilities = (each.probability for each in result.segments)
        labels = index_map(probabilities, numbers, (image.shape[0], image.shape[1]), nothing)
        written: dict[str, Any] = {"labels": str(self.labels)}
        save_label_map(self.labels, labels)
        if self.overlay:
            written["overlay"] = str(self.overlay)
            save_image(self.overlay, overlay_labels(image, labels))
        if self.cutout:
            written["cutout"] = str(self.cutout)
            save_cutout(self.cutout, image, [each.probability for each in result.segments])
        if self.sheet:
            written["sheet"] = str(self.sheet)
            save_image(self.sheet, _draw_sheet(image, result))
        if self.maps:
            with output_errors(self.maps):
                self.maps.mkdir(exist_ok=True)
            numbered = enumerate(result.segments, 1)
            written["maps"] = [self._write_maps(self.maps, number, segment) for number, segment in numbered]
        return written

    def _write_maps(self, folder: Path, number: int, segment: Segment) -> dict[str, str]:
        from segrefine.runtime.files.output import save_mask, save_probability

        files = self._map_files(folder, number, segment.phrase)
        save_mask(files["mask"], segment.mask)
        save_probability(files["probability"], segment.probability)
        if self.uncertainty:
            save_probability(files["uncertainty"], segment.uncertainty)
        return {name: str(path) for name, path in files.items()}


def _draw_sheet(image: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
    """Draw the sheet of all segments; the image alone if there are none."""
    from segrefine.runtime.drawing.pictures import Tile, contact_sheet, magnify, segment_sheet

    if not result.segments:
        return contact_sheet([[Tile(picture=magnify(image), caption="nothing found")]])
    return segment_sheet([(image, each, f"confidence {each.confidence:.2f}") for each in result.segments])
