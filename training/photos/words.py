"""The words of `photo`: class names, their sources' names for them, and captions."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

SEVEN = ("cat", "dog", "horse", "sheep", "cow", "person", "bird")
"""The classes that the text gate asks for."""
_OTHERS = """
    airplane bicycle boat bottle bus car chair table motorcycle plant couch train tv
    book cup bowl glass spoon donut bag knife sink umbrella broccoli carrot toilet fork apple truck oven laptop
    vase bench keyboard backpack elephant phone fridge suitcase cake pizza sandwich banana mouse racket clock kite
    toothbrush remote microwave ball giraffe tie skateboard scissors glove skis bed zebra bear toaster snowboard
    frisbee surfboard
"""
NAMES = (*SEVEN, *_OTHERS.split())
"""All classes. A class's number in a label map is its place here plus 1; 0 is background."""
VOID = 255
"""The number of pixels whose class is unknown."""
ALIASES = {
    "aeroplane": "airplane",
    "diningtable": "table",
    "dining table": "table",
    "motorbike": "motorcycle",
    "pottedplant": "plant",
    "potted plant": "plant",
    "sofa": "couch",
    "tvmonitor": "tv",
    "wine glass": "glass",
    "handbag": "bag",
    "cell phone": "phone",
    "refrigerator": "fridge",
    "tennis racket": "racket",
    "sports ball": "ball",
    "baseball glove": "glove",
    "teddy bear": "bear",
}
"""What the data sets call a class, where that differs from `NAMES`."""
_IRREGULAR = {
    "sheep": "sheep",
    "person": "people",
    "couch": "couches",
    "bus": "buses",
    "bench": "benches",
    "mouse": "mice",
    "sandwich": "sandwiches",
    "toothbrush": "toothbrush",
    "broccoli": "broccoli",
    "frisbee": "frisbee",
}
PLURALS = {name: _IRREGULAR.get(name, name if name.endswith("s") else f"{name}s") for name in NAMES}
_CAPTION_WORDS = """
    a an the photo image picture scene background of and in on to with next left right above below under near
    red green blue yellow purple orange pink brown black white grey big small all is sits stands two three some
    man woman child boy girl people kitten puppy lamb calf animal face head
    grass sky water road street snow sand sea tree trees wall floor room house building fence field ground leaves
    light traffic door window food fruit flower mountain river beach
"""
WORDS = tuple(dict.fromkeys((*_CAPTION_WORDS.split(), *PLURALS.values(), *NAMES)))
"""Words that are one token each. Everything else is spelt in bytes."""


def number_of(name: str) -> int:
    """The number of a data set's class in a label map; `VOID` for a class that has no word here."""
    name = ALIASES.get(name, name)
    return NAMES.index(name) + 1 if name in NAMES else VOID


def caption(names: Sequence[str]) -> str:
    """("cat", "dog") → "a photo of a cat and a dog"; empty for no names."""
    return "a photo of " + " and ".join(f"a {name}" for name in names) if names else ""


def vary_caption(rng: Generator, names: Sequence[str]) -> str:
    """Word a caption in one of four ways, most often as `caption` does."""
    chance = rng.random()
    if not names or chance < 0.8:
        return caption(names)
    if chance < 0.87:
        return " and ".join(f"the {name}" for name in names)
    if chance < 0.94:
        return "a photo of " + " and ".join(PLURALS[name] for name in names)
    return " and ".join(names)
