"""COCO results: a JSON list of annotations, as detectors write them; another JSON lists the images and categories."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from segrefine.datasets.coco import Coco, part_of
from segrefine.datasets.coco_file import HINT, check_coco, read_coco
from segrefine.datasets.notation import Place
from segrefine.errors import MaskError
from segrefine.runtime.files.output import write_whole
from segrefine.storage import read_json

RESULTS = "results.json"


class CocoResults(Coco):
    """A list of results, with the images and categories of the JSON that `--listing` names."""

    title = "COCO results"
    described = "COCO results"
    options = ("boxes", "listing")

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the file holds a list."""
        if not place.masks.is_file():
            return False
        with place.masks.open("rb") as stream:
            start = stream.read(64)
        return start.decode(json.detect_encoding(start), "ignore").lstrip("\ufeff \t\r\n").startswith("[")

    @cached_property
    def _content(self) -> dict[str, Any]:
        listing = self.place.options.listing
        results = read_json(self.place.masks, MaskError, hint=HINT)
        if listing is None:
            message = "it holds a list of results, which does not name its images and categories"
            hint = "--listing names the COCO JSON that lists them"
            raise MaskError(message, subject=self.place.masks, hint=hint)
        content = read_coco(Path(listing)) | {"annotations": results}
        check_coco(content, self.place.masks)
        return content

    def finish(self, output: Path) -> None:
        """Join the results of the images that were refined to one list."""
        joined: list[dict[str, Any]] = []
        for item in self.items:
            part = part_of(item, output)
            if part.is_file():
                joined += json.loads(part.read_text("utf-8"))
        write_whole(output / RESULTS, json.dumps(joined).encode())

    @property
    def left_out(self) -> frozenset[str]:
        """None: a list of results does not say which images failed."""
        return frozenset()
