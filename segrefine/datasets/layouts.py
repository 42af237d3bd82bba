"""Layouts of label map benchmarks on disk, as their archives and converters leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segrefine.datasets.tree import list_files, list_subfolders
from segrefine.errors import MaskError
from segrefine.storage import read_text

_THINGS_LEFT_OUT = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
_STUFF = range(91, 182)
_COCO_THINGS = [index for index in range(91) if index not in _THINGS_LEFT_OUT]
COCO_STUFF_IDS = {raw: place for place, raw in enumerate([*_COCO_THINGS, *_STUFF])}
"""COCO-Stuff's pixel values, by what its converter makes of them."""
COCO_OBJECT_IDS = {raw: place for place, raw in enumerate(_COCO_THINGS, 1)} | dict.fromkeys(_STUFF, 0)
CITYSCAPES_IDS = {
    raw: place for place, raw in enumerate((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33))
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One benchmark on disk.

    Attributes:
        title: its name.
        images: folder of the images; `{split}` is the split.
        masks: folders of the label maps; the first one that is there is taken.
        classes: names of the class lists that fit it, the default first.
        image_suffix: what follows an image's name in its file.
        mask_suffix: what follows it in the label map's file.
        lists: folder of the lists of the splits, one text file each; None where each split is a folder.
        splits: folders of splits by their usual names.
        counts: how many images a split has, by the split.
        indices: classes by the values of label maps, where they are not yet those of the class list.
    """

    title: str
    images: str
    masks: Sequence[str]
    classes: Sequence[str]
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"
    lists: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    indices: Mapping[int, int] | None = None

    @property
    def image_root(self) -> str:
        """The folder of the images, without the split."""
        return self.images.removesuffix("/{split}")

    def folder_of(self, split: str) -> str:
        """The folder of a split."""
        return self.splits.get(split, split)


_COCO_SPLITS = {"val": "val2017", "train": "train2017"}
_COCO_COUNTS = {"val2017": 5000, "train2017": 118287}


def _coco(title: str, classes: str, suffix: str, indices: Mapping[int, int] | None = None) -> Layout:
    return Layout(
        title=title, images="images/{split}", masks=("annotations/{split}", "stuffthingmaps/{split}"),
        classes=(classes,), mask_suffix=suffix, splits=_COCO_SPLITS, counts=_COCO_COUNTS, indices=indices,
    )  # fmt: skip


def _cityscapes(suffix: str, indices: Mapping[int, int] | None = None) -> Layout:
    return Layout(
        title="Cityscapes", images="leftImg8bit/{split}", masks=("gtFine/{split}",), classes=("cityscapes",),
        image_suffix="_leftImg8bit.png", mask_suffix=suffix, splits={"val": "val", "train": "train"},
        counts={"val": 500, "train": 2975}, indices=indices,
    )  # fmt: skip


LAYOUTS = (
    Layout(
        title="PASCAL VOC 2012", images="JPEGImages", masks=("SegmentationClass", "SegmentationClassAug"),
        classes=("voc", "voc20"), lists="ImageSets/Segmentation", counts={"val": 1449, "train": 1464, "trainval": 2913},
    ),
    Layout(
        title="PASCAL Context", images="JPEGImages", masks=("SegmentationClassContext",),
        classes=("context59", "context60"), lists="ImageSets/SegmentationContext", counts={"val": 5105, "train": 4998},
    ),
    _coco("COCO-Object", "coco-object", "_instanceTrainIds.png"),
    _coco("COCO-Stuff", "coco-stuff", "_labelTrainIds.png"),
    _coco("COCO-Object", "coco-object", ".png", COCO_OBJECT_IDS),
    _coco("COCO-Stuff", "coco-stuff", ".png", COCO_STUFF_IDS),
    Layout(
        title="COCO-Object", images="coco2014/{split}", masks=("SegmentationClass/{split}",), classes=("coco-object",),
        splits={"val": "val2014", "train": "train2014"}, counts={"val2014": 40504, "train2014": 82783},
    ),
    Layout(
        title="ADE20K", images="images/{split}", masks=("annotations/{split}",), classes=("ade20k",),
        splits={"val": "validation", "train": "training"}, counts={"validation": 2000, "training": 20210},
    ),
    _cityscapes("_gtFine_labelTrainIds.png"),
    _cityscapes("_gtFine_labelIds.png", CITYSCAPES_IDS),
)  # fmt: skip
"""Every layout. Converted label maps come before raw ones."""
_BELOW = ("", "VOC2012", "VOCdevkit/VOC2012", "VOC2010", "VOCdevkit/VOC2010", "ADEChallengeData2016")
"""Where the root may lie below a folder that is named."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One image of a split; paths relative to the folders of images and of label maps.

    Attributes:
        image: its file.
        mask: the file of its label map.
    """

    image: str
    mask: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundBenchmark:
    """A benchmark that was found.

    Attributes:
        layout: how it lies.
        root: its folder.
        images: folder of the images of the split.
        masks: folder of the label maps.
        split: the split that is read.
        listing: its images by name.
        classes: name of its class list, or a file of classes.
        twice: names that the list of the split has more than once; each counts once.
        absent: sequences that the list names and of which no frame is there.
    """

    layout: Layout
    root: Path
    images: Path
    masks: Path
    split: str
    listing: Mapping[str, Listed]
    classes: str
    twice: Sequence[str] = ()
    absent: Sequence[str] = ()

    @property
    def expected(self) -> int | None:
        """Return the number of images in the whole split; None if it is unknown."""
        return self.layout.counts.get(self.split)


def find_benchmark(source: Path, split: str | None = None, classes: str | None = None) -> FoundBenchmark | None:
    """The benchmark that lies in a folder; None where none does.

    Args:
        source: the folder.
        split: the split to read, or a file that lists images; None for `val`.
        classes: name of a class list; tells benchmarks apart that lie in one folder.

    Raises:
        MaskError: the split is missing or empty, the classes are those of another benchmark, several benchmarks lie
            there and nobody says which is meant, or it is PASCAL Context before its conversion.
    """
    if not source.is_dir() or (source / "masks").is_dir():
        return None
    matches = list(_matches(source))
    if not matches:
        _refuse_raw_context(source)
        return None
    found = [(layout, root) for layout, root in matches if classes is None or classes in layout.classes]
    if not found and classes is not None and Path(classes).is_file():  # a class list of one's own fits any layout
        found = matches
    if not found:
        raise _other_classes(source, classes, [layout for layout, _ in matches])
    titles = list(dict.fromkeys(layout.title for layout, _ in found))
    if len(titles) > 1:
        choices = " or ".join(dict.fromkeys(f"--classes {layout.classes[0]}" for layout, _ in found))
        raise MaskError(f"it holds {' and '.join(titles)}", subject=source, hint=f"say which one is meant: {choices}")
    layout, root = found[0]
    return _open(layout, root, split or "val", classes or layout.classes[0])


def _refuse_raw_context(source: Path) -> None:
    """Refuse PASCAL Context as its authors publish it: 459 classes in MATLAB files, which no published table uses."""
    for folder in (source, source / "trainval", source / "VOC2010/trainval", source / "VOCdevkit/VOC2010/trainval"):
        if folder.is_dir() and next(folder.glob("*.mat"), None):
            raise MaskError(
                subject=folder,
                expected="the label maps of PASCAL Context's 59 classes in SegmentationClassContext/",
                got="the MATLAB files of all its classes",
                hint="convert them with mmsegmentation's tools/dataset_converters/pascal_context.py",
            )


def _matches(source: Path) -> Iterator[tuple[Layout, Path]]:
    for below in _BELOW:
        root = source / below
        for layout in LAYOUTS:
            if (root / layout.image_root).is_dir() and any(_holds_maps(layout, root, each) for each in layout.masks):
                yield layout, root


def _holds_maps(layout: Layout, root: Path, masks: str) -> bool:
    """Return whether a folder holds label maps of a layout; one file is enough."""
    folder = root / masks.removesuffix("/{split}")
    if not folder.is_dir():
        return False
    if layout.lists is not None:
        return True
    if not set(list_subfolders(folder)) & set(layout.splits.values()):
        return False
    return any(_is_map(layout, file) for _, _, files in os.walk(folder) for file in files)


def _is_map(layout: Layout, file: str) -> bool:
    converted = layout.mask_suffix == ".png" and file.endswith("TrainIds.png")
    return file.endswith(layout.mask_suffix) and not converted


def _open(layout: Layout, root: Path, split: str, classes: str) -> FoundBenchmark:
    folder = layout.folder_of(split)
    images = root / layout.images.format(split=folder)
    places = [root / each.format(split=folder) for each in layout.masks if _holds_maps(layout, root, each)]
    maps, twice = places[0], list[str]()
    if layout.lists is not None:
        listing = _read_list(layout, root, split, places, twice)
        maps = max(places, key=lambda place: _count_maps(place, listing) if len(places) > 1 else 0)
    elif images.is_dir() or maps.is_dir():
        listing = dict(sorted(_list_folders(layout, images, maps)))
    else:
        raise _no_split(root, split, list_subfolders(root / layout.image_root))
    if not listing:
        raise MaskError(f"the split {split!r} lists no image", subject=root, hint="download the data again")
    return FoundBenchmark(
        layout=layout, root=root, images=images, masks=maps, split=folder, listing=listing, classes=classes,
        twice=twice,
    )  # fmt: skip


def _list_folders(layout: Layout, images: Path, maps: Path) -> Iterator[tuple[str, Listed]]:
    """The images of a split that is a folder, and the label maps without an image."""
    stems = {file.removesuffix(layout.image_suffix) for file in _files(images) if file.endswith(layout.image_suffix)}
    stems |= {file.removesuffix(layout.mask_suffix) for file in _files(maps) if _is_map(layout, file)}
    for stem in stems:
        yield Path(stem).name, Listed(image=stem + layout.image_suffix, mask=stem + layout.mask_suffix)


def _files(folder: Path) -> list[str]:
    return list_files(folder) if folder.is_dir() else []


def _count_maps(place: Path, listing: Mapping[str, Listed]) -> int:
    """Count the images of a list that have a label map in a folder. The maps of `train_aug` are in another folder."""
    return sum((place / each.mask).is_file() for each in listing.values())


def _read_list(layout: Layout, root: Path, split: str, places: Sequence[Path], twice: list[str]) -> dict[str, Listed]:
    """The images that the list of a split names; all label maps where there are no lists and no split is asked for.

    A line is a name, or the paths of an image and its label map.
    """
    assert layout.lists is not None
    folder = root / layout.lists
    file = Path(split) if Path(split).is_file() else folder / f"{split}.txt"
    if not file.is_file():
        if folder.is_dir() or split != "val":
            raise _no_split(root, split, sorted(each.stem for each in folder.glob("*.txt")))
        files = dict.fromkeys(file for place in places for file in _files(place) if file.endswith(layout.mask_suffix))
        lines = [file.removesuffix(layout.mask_suffix) for file in files]
    else:
        lines = read_text(file).splitlines()
    listing: dict[str, Listed] = {}
    for words in filter(None, map(str.split, lines)):
        name = Path(words[0]).name.removesuffix(layout.image_suffix)
        if name in listing:
            twice.append(name)
        listing[name] = Listed(image=name + layout.image_suffix, mask=name + layout.mask_suffix)
    return listing


def _other_classes(source: Path, classes: str | None, layouts: Sequence[Layout]) -> MaskError:
    titles = " and ".join(dict.fromkeys(layout.title for layout in layouts))
    known = ", ".join(dict.fromkeys(name for layout in layouts for name in layout.classes))
    message = f"it holds {titles}, which does not have the classes of {classes}"
    hint = f"its class lists are {known}; a protocol and a benchmark bring their own"
    return MaskError(message, subject=source, hint=hint)


def _no_split(root: Path, split: str, known: Sequence[str]) -> MaskError:
    hint = f"--split takes {', '.join(known)}, or a text file with a name a line" if known else "download it again"
    return MaskError(f"it has no split {split!r}", subject=root, hint=hint)
