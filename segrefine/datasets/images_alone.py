"""Images without masks: a model finds the classes by their names, and the results are label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from segrefine.datasets.class_lists import classes_of
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels
from segrefine.datasets.notation import Parts, Place
from segrefine.errors import MaskError
from segrefine.runtime.files.output import save_label_map
from segrefine.runtime.refinement import index_map
from segrefine.storage import output_errors


class ImagesAlone(MaskFiles):
    """A folder of images. A label map is written for each, below the folder `masks` of the output.

    Attributes:
        classes: what is looked for.
    """

    title = "images alone"
    described = "images without masks"
    is_unmistakable = True
    options = ("classes", "zero_shot", "split")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.classes = classes_of(place)
        self.classes.check_findable()

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the user says so."""
        return place.options.zero_shot

    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read no masks: there are none yet."""
        if image is None:
            raise MaskError(f"there is no mask for {item.image}", hint="images without masks cannot be compared")
        return Parts(size=(image.shape[0], image.shape[1]), masks={})

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Write the label map of an image; see `Notation.write`."""
        [file] = item.masks
        target = self._target_of(output, file)
        numbers = {name: index for index, name in self.classes.names.items()}
        indices = [numbers[str(name)] for name in results]
        labels = index_map((each.probability for each in results.values()), indices, size, self.classes.nothing)
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        save_label_map(target, labels)

    def files_of(self, item: Item) -> list[Path]:
        """The image alone: its masks are yet to be written."""
        return [item.root / item.image]

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read no masks; see `read`."""
        return self.read(item, image)

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Refuse: there is no file that the results could take the place of."""
        raise MaskError(f"there is no {source}", hint="images without masks get label maps")

    def _make_item(self, name: str, image: str) -> Item:
        return Item(name=name, root=self._images, image=image, masks=(f"{name}.png",))

    def _mask_files(self) -> Iterator[str]:
        return iter(())
