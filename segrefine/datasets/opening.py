"""Opening data sets: the one table of notations, and the one rule that says which of them a data set is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from segrefine.datasets.benchmark_maps import BenchmarkMaps
from segrefine.datasets.cams import Cams
from segrefine.datasets.class_folders import ClassFolders
from segrefine.datasets.coco import RESULT, Coco
from segrefine.datasets.coco_file import images_of
from segrefine.datasets.coco_results import RESULTS, CocoResults
from segrefine.datasets.expressions import Expressions, find_expressions
from segrefine.datasets.images_alone import ImagesAlone
from segrefine.datasets.items import Pixels, read_image
from segrefine.datasets.label_maps import LabelMaps
from segrefine.datasets.labelme import LabelMe
from segrefine.datasets.layouts import find_benchmark
from segrefine.datasets.narratives import Narratives, find_narratives
from segrefine.datasets.notation import CLASSES, LABELS, Notation, Place, ReadingOptions, select_masks
from segrefine.datasets.object_sets import ObjectMasks, find_objects
from segrefine.datasets.phrase_results import PhraseResults
from segrefine.datasets.polygons import Mask
from segrefine.datasets.single_masks import SingleMasks
from segrefine.datasets.tree import has_json
from segrefine.datasets.yolo import Yolo
from segrefine.errors import MaskError, SettingsError

NOTATIONS: list[type[Notation]] = [
    Narratives, Expressions, PhraseResults, ImagesAlone, ObjectMasks, BenchmarkMaps, CocoResults, Coco,
    Cams, LabelMe, Yolo, SingleMasks, ClassFolders, LabelMaps,
]  # fmt: skip
"""Every notation. A data set is in the first one that detects it."""
IMAGES, MASKS, LABELS_FOLDER = "images", "masks", "labels"
COCO_FILES = (RESULT, RESULTS, "result.json")
"""Names under which a folder has a COCO JSON: as `segrefine batch` writes it, and as Label Studio exports it."""


def find_notation(place: Place) -> type[Notation] | None:
    """The first notation that detects the masks at a place as its own; None if none does.

    Raises:
        MaskError: folders of masks may be classes or not.
    """
    return next((notation for notation in NOTATIONS if notation.detect(place)), None)


def detect_notation(place: Place) -> type[Notation]:
    """The notation of the masks at a place.

    Where nothing says what it is, masks to be refined are label maps of PASCAL VOC, for they need a label; masks to be
    compared are masks of one object each.

    Raises:
        MaskError: folders of masks may be classes or not.
    """
    return find_notation(place) or (LabelMaps if place.to_refine else SingleMasks)


def check_options(place: Place, notations: Sequence[type[Notation]]) -> None:
    """Check that each reading option of a place is one of a notation that is read.

    A benchmark has a class list, whatever notation the coarse masks of its images are in.

    Raises:
        SettingsError: one of them would do nothing.
    """
    taken = {name for notation in notations for name in notation.options}
    if place.benchmark is not None:
        taken.add("classes")
    for name in place.options.given:
        if name not in taken:
            read = ", ".join(dict.fromkeys(notation.described for notation in notations))
            takers = ", ".join(notation.described for notation in NOTATIONS if name in notation.options)
            option = f"--{name.replace('_', '-')}"
            message = f"{option} is for {takers}, and the data set is in another notation: {read}"
            raise SettingsError(message, hint=f"leave {option} out")


def place_of(source: Path, images: Path | None = None, options: ReadingOptions | None = None) -> Place:
    """Return the locations of a data set that is to be refined.

    Args:
        source: its folder, or a JSON.
        images: folder of a JSON's images; None for the one beside it.
        options: how it is read.

    Raises:
        MaskError: the folder has no folder of images, or none of masks.
    """
    options = options or ReadingOptions()
    found = source / IMAGES
    if benchmark := place_of_benchmark(source, images, options):
        return benchmark
    if options.zero_shot:
        return _place_of_images(source, options)
    masks = next((source / name for name in (MASKS, LABELS_FOLDER) if (source / name).is_dir()), source / MASKS)
    coco = next((source / name for name in COCO_FILES if (source / name).is_file()), None)
    if source.is_file() or (coco and not masks.is_dir()):
        file = source if source.is_file() else coco or source
        return Place(masks=file, images=images or images_of(file), root=file.parent, options=options)
    if not masks.is_dir() and has_json(found if found.is_dir() else source):  # LabelMe's are beside the images
        masks = found = found if found.is_dir() else source
    for folder in (found, masks):
        if not folder.is_dir():
            hint = "expected DIR/images, DIR/masks, and DIR/labels.json or classes.json; or a COCO JSON"
            raise MaskError(f"there is no folder {folder}", hint=hint)
    labels, classes = source / LABELS, source / CLASSES
    return Place(
        masks=masks, images=found, root=source, options=options,
        labels=labels if labels.is_file() else None, classes=classes if classes.is_file() else None,
    )  # fmt: skip


def place_of_benchmark(
    source: Path, images: Path | None, options: ReadingOptions, *, to_refine: bool = True
) -> Place | None:
    """Return the location of a benchmark as its archives leave it; None if a path holds none.

    Raises:
        MaskError: it lacks the split, or it is not said which benchmark is meant.
    """
    if file := find_narratives(source, options.split) or find_expressions(source):
        return Place(masks=file, images=images, root=file.parent, to_refine=to_refine, options=options)
    objects = find_objects(source, options.split, to_refine=to_refine)
    found = objects or find_benchmark(source, options.split, options.classes)
    if found is None:
        return None
    coarse = Path(options.coarse) if options.coarse and to_refine else None
    if coarse is not None and not coarse.is_dir():
        raise MaskError(subject="--coarse", expected="a folder of masks, named as the images are", got=str(coarse))
    if coarse is not None and (coarse / MASKS).is_dir():
        coarse = coarse / MASKS
    told = replace(options, classes=None if objects else found.classes, split=None, coarse=None)
    return Place(
        masks=coarse or found.masks, images=found.images, root=coarse or found.root, to_refine=to_refine, options=told,
        benchmark=found,
    )  # fmt: skip


def _place_of_images(source: Path, options: ReadingOptions) -> Place:
    """Return the location of images without masks: a folder, or its folder `images`."""
    if not source.is_dir():
        raise MaskError(subject=source, expected="a folder of images", got="a file")
    images, classes = source / IMAGES, source / CLASSES
    return Place(
        masks=source / MASKS, images=images if images.is_dir() else source, root=source, options=options,
        classes=classes if classes.is_file() else None,
    )  # fmt: skip


def open_data_set(source: Path, images: Path | None = None, options: ReadingOptions | None = None) -> Notation:
    """A data set that is to be refined; see `place_of`.

    Raises:
        MaskError: there is none, or it is not said what its masks mean.
    """
    place = place_of(source, images, options)
    notation = detect_notation(place)
    check_options(place, [notation])
    return notation(place)


def read_pairs(
    source: Path, images: Path | None = None, options: ReadingOptions | None = None
) -> Iterator[tuple[Pixels, list[tuple[str, Mask]]]]:
    """Read a data set in any notation, as training does: each image, uint8 (H, W, 3), with its labels and masks.

    A mask is bool (H, W). A label may come twice, for two instances. Masks that are empty or cover the whole image, and
    annotations without a usable mask, are left out.

    Args:
        source: folder of the data set, or a JSON.
        images: folder of a JSON's images; None for the one beside it.
        options: how it is read.

    Yields:
        The image, and a list of pairs of label and mask; the list may be empty.

    Raises:
        MaskError: there is no data set, or an image's masks cannot be read.
        ImageError: an image cannot be read.
    """
    data_set = open_data_set(source, images, options)
    for item in data_set.items:
        image = read_image(item)
        reading = select_masks(data_set.read(item, image), item)
        yield image, [(each.label, each.foreground) for each in reading.masks]


def _are_comparable(first: type[Notation], second: type[Notation]) -> bool:
    """Return whether both name their masks by classes, or by phrases, or their images by COCO's ids."""
    if first is second:
        return True
    if first.has_phrases or second.has_phrases:
        return first.has_phrases and second.has_phrases
    return (first.names_classes and second.names_classes) or (issubclass(first, Coco) and issubclass(second, Coco))


def open_compared(places: Sequence[Place]) -> list[Notation]:
    """The masks in several places that are compared, the true ones first.

    The notation of the true ones is that of the others too, but for those whose files say otherwise: masks by class
    are comparable in any notation.

    Raises:
        MaskError: the notations cannot be compared.
    """
    first, *others = places
    notation = detect_notation(first)
    found = [notation]
    for place in others:
        other = detect_notation(place)
        sure = other.is_unmistakable or notation.is_unmistakable
        found.append(other if sure else notation)
    if any(not _are_comparable(each, notation) for each in found):
        pairs = zip(places, found, strict=True)
        words = ", ".join(f"{place.masks} ({each.described})" for place, each in pairs)
        raise MaskError(expected="all masks in one notation", got=words, hint="compare like with like")
    if CocoResults in found and first.options.listing is None and notation is Coco:  # the truth lists the images
        options = replace(first.options, listing=str(first.masks))
        places = [replace(place, options=options) for place in places]
    check_options(places[0], found)
    return [each(place) for each, place in zip(found, places, strict=True)]
