"""The class lists that ship: indices and names of data sets, prompts for the model, and what does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from segrefine.datasets.classes import BACKGROUND, IGNORED, VOC, ClassList, read_classes
from segrefine.datasets.notation import Place
from segrefine.errors import MaskError

_CONTEXT = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow",
    "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
_CONTEXT_PROMPTS = {
    "pottedplant": "potted plant", "tvmonitor": "tv monitor", "bedclothes": "bed sheets", "mouse": "computer mouse",
    "light": "lamp", "track": "railway track",
}  # fmt: skip

_COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
_COCO_PROMPTS = {"mouse": "computer mouse", "remote": "remote control", "tie": "necktie", "hair drier": "hair dryer"}

_STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower",
    "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow",
    "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof",
    "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone",
    "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
    "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops",
    "window-blind", "window-other", "wood",
)  # fmt: skip
_STUFF_PROMPTS = {
    "building-other": "building", "ceiling-other": "ceiling", "ceiling-tile": "tiled ceiling", "desk-stuff": "desk",
    "door-stuff": "door", "floor-marble": "marble floor", "floor-other": "floor", "floor-stone": "stone floor",
    "floor-tile": "tiled floor", "floor-wood": "wooden floor", "food-other": "food", "furniture-other": "furniture",
    "ground-other": "ground", "light": "lamp", "mirror-stuff": "mirror", "plant-other": "plant",
    "playingfield": "playing field", "sky-other": "sky", "solid-other": "solid object",
    "structural-other": "structure", "textile-other": "textile", "wall-brick": "brick wall",
    "wall-concrete": "concrete wall", "wall-other": "wall", "wall-panel": "panelled wall", "wall-stone": "stone wall",
    "wall-tile": "tiled wall", "wall-wood": "wooden wall", "water-other": "water", "waterdrops": "water drops",
    "window-blind": "window blind", "window-other": "window",
}  # fmt: skip

_ADE20K = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat",
    "bar", "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle",
    "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake",
    "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
_ADE20K_PROMPTS = {
    "windowpane": "window", "palm": "palm tree", "television receiver": "television", "apparel": "clothes",
    "plaything": "toy", "minibike": "motorbike", "trade name": "brand sign", "ashcan": "trash can",
    "crt screen": "old computer screen", "hovel": "hut", "hood": "kitchen hood", "sconce": "wall lamp",
    "washer": "washing machine", "bannister": "stair railing", "buffet": "sideboard", "blind": "window blind",
    "base": "pedestal", "case": "display case", "conveyer belt": "conveyor belt", "glass": "drinking glass",
}  # fmt: skip

_CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_PROMPTS = {"vegetation": "trees and bushes", "terrain": "grass", "rider": "person riding a bicycle"}


def _list(
    name: str,
    names: Sequence[str],
    *,
    first: int = 1,
    background: str | None = BACKGROUND,
    ignored: Sequence[int] = (IGNORED,),
    prompts: Mapping[str, str] | None = None,
) -> ClassList:
    return ClassList(
        names=dict(enumerate(names, first)), prompts=prompts or {}, background=background, ignored=frozenset(ignored),
        origin=f"the class list {name}",
    )  # fmt: skip


CLASS_LISTS: dict[str, ClassList] = {
    "voc": VOC,
    "voc20": _list("voc20", list(VOC.names.values()), background=None, ignored=(0, IGNORED)),
    "context59": _list("context59", _CONTEXT, background=None, ignored=(0, IGNORED), prompts=_CONTEXT_PROMPTS),
    "context60": _list("context60", _CONTEXT, prompts=_CONTEXT_PROMPTS),
    "coco-object": _list("coco-object", _COCO, prompts=_COCO_PROMPTS),
    "coco-stuff": _list(
        "coco-stuff", (*_COCO, *_STUFF), first=0, background=None, prompts=_COCO_PROMPTS | _STUFF_PROMPTS
    ),
    "coco-stuff10k": _list(
        "coco-stuff10k", (*_COCO, *_STUFF), background=None, ignored=(0, IGNORED),
        prompts=_COCO_PROMPTS | _STUFF_PROMPTS,
    ),
    "ade20k": _list("ade20k", _ADE20K, background=None, ignored=(0, IGNORED), prompts=_ADE20K_PROMPTS),
    "cityscapes": _list("cityscapes", _CITYSCAPES, first=0, background=None, prompts=_CITYSCAPES_PROMPTS),
}  # fmt: skip
"""By name. Indices are those of the label maps that the data sets' own tools write: train ids, 255 for no class."""


def classes_of(place: Place) -> ClassList:
    """The classes of a data set: those that the user names, or its own, or those of PASCAL VOC.

    Raises:
        MaskError: there is no such list, or the file holds something else.
    """
    named = place.options.classes
    if named is None:
        return VOC if place.classes is None else read_classes(place.classes)
    return find_classes(named)


def find_classes(named: str) -> ClassList:
    """A class list by its name, or the classes of a JSON file.

    Raises:
        MaskError: there is no such list, or the file holds something else.
    """
    if named in CLASS_LISTS:
        return CLASS_LISTS[named]
    if not Path(named).is_file():
        hint = f"class lists are {', '.join(CLASS_LISTS)}; or give a JSON file with names by index"
        raise MaskError(f"there is no class list {named!r}, and no such file", hint=hint)
    return read_classes(Path(named))
