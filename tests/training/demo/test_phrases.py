"""Phrases of demo scenes, on scenes painted by hand."""

import numpy as np
import pytest

from segrefine.assets import DEMO_PHRASE_WORDS
from training.demo.captions import NAMES, PLURALS, WORDS
from training.demo.phrases import SHARES, colour_name, draw_phrase, list_phrases
from training.demo.scenes import DemoScene

RED, BLUE, GREY = (220, 20, 20), (20, 40, 220), (128, 128, 128)


def scene(*objects):
    """A scene of squares, each (name, colour, (x, y), side), on grey."""
    image, instances = np.full((64, 64, 3), GREY, np.uint8), np.zeros((64, 64), np.uint8)
    for number, (_, colour, (x, y), side) in enumerate(objects, 1):
        image[y : y + side, x : x + side] = colour
        instances[y : y + side, x : x + side] = number
    return DemoScene(image=image, instances=instances, classes=tuple(NAMES.index(name) for name, *_ in objects))


def texts(painted):
    return {phrase.text: phrase.objects for kind in list_phrases(painted).values() for phrase in kind}


def test_one_object_is_named_by_its_class_its_colour_and_where_it_is():
    named = texts(scene(("fox", RED, (2, 20), 16), ("tree", BLUE, (40, 22), 16)))
    assert named["the fox"] == named["the red fox"] == named["the fox left of the tree"] == (1,)
    assert named["the tree right of the fox"] == (2,)
    assert named["the fox and the tree"] == (1, 2)
    assert named["the background"] == (0,)
    assert named["the blue fox"] == named["the car"] == ()
    assert named["the red tree"] == ()
    assert not {"all foxes", "the big fox", "the fox above the tree"} & named.keys()


def test_objects_of_one_class_are_told_apart():
    named = texts(scene(("car", RED, (2, 4), 10), ("car", BLUE, (40, 40), 20), ("tree", GREY, (4, 44), 12)))
    assert named["all cars"] == (1, 2)
    assert named["the red car"] == named["the small car"] == named["the left car"] == (1,)
    assert named["the blue car"] == named["the big car"] == named["the right car"] == (2,)
    assert named["the car above the tree"] == (1,)
    assert named["the car right of the tree"] == (2,)
    assert "the car" not in named  # which of them?


def test_what_is_not_clear_is_not_asked():
    named = texts(scene(("car", RED, (2, 4), 16), ("car", RED, (6, 30), 17)))
    assert not {"the red car", "the big car", "the left car"} & named.keys()


def test_of_what_can_hardly_be_seen_nothing_is_asked():
    named = texts(scene(("car", RED, (2, 4), 4), ("tree", BLUE, (40, 40), 14), ("car", RED, (20, 4), 14)))
    assert not [text for text in named if "car" in text]
    assert named["the tree"] == (2,)
    hidden = texts(scene(("fox", RED, (20, 20), 10), ("tree", BLUE, (20, 20), 14)))
    assert not [text for text in hidden if "fox" in text]


def test_the_words_that_the_demo_is_said_to_know_are_those_of_its_phrases():
    rng, words = np.random.default_rng(0), set()
    for _ in range(300):
        colours = rng.permutation([RED, BLUE, (20, 200, 20), (160, 30, 220), (250, 250, 250)])[:3]
        names = (
            rng.choice(NAMES, 3) if rng.random() < 0.5 else [NAMES[rng.integers(16)]] * 2 + [NAMES[rng.integers(16)]]
        )
        corners = rng.permutation([(4, 2), (6, 44), (48, 20)]).tolist()
        painted = scene(*zip(names, map(tuple, colours), corners, rng.integers(8, 16, 3), strict=True))
        words |= {word for text in texts(painted) for word in text.split()}
    assert words <= DEMO_PHRASE_WORDS <= set(WORDS)
    assert {*NAMES, *PLURALS.values(), "left", "right", "above", "below", "big", "small", "red"} <= words | set(NAMES)


def test_mask_is_what_the_objects_show():
    painted = scene(("fox", RED, (2, 20), 16), ("tree", BLUE, (10, 22), 16))
    phrases = {phrase.text: phrase for kind in list_phrases(painted).values() for phrase in kind}
    assert phrases["the fox"].mask(painted.instances).sum() == 16 * 16 - 8 * 14  # the tree hides a part
    assert not phrases["the car"].mask(painted.instances).any()


@pytest.mark.parametrize(
    ("rgb", "name"),
    [(RED, "red"), (BLUE, "blue"), (GREY, None), ((10, 12, 9), "black"), ((250, 250, 245), "white"),
     ((120, 70, 20), "brown"), ((240, 140, 20), "orange"), ((30, 160, 60), "green")],
)  # fmt: skip
def test_colours(rgb, name):
    assert colour_name(np.full((50, 3), rgb, np.uint8)) == name


def test_drawn_phrases_are_of_every_kind_and_mean_the_same_with_another_article():
    cars = ("car", RED, (2, 4), 10), ("car", BLUE, (40, 4), 20)
    painted = scene(*cars, ("tree", GREY, (4, 44), 12), ("fox", RED, (44, 44), 12))
    rng, named = np.random.default_rng(0), texts(painted)
    drawn = [draw_phrase(rng, painted) for _ in range(400)]
    assert {phrase.kind for phrase in drawn} == SHARES.keys()
    for phrase in drawn:
        words = phrase.text.removeprefix("all ").removeprefix("the ").removeprefix("an ").removeprefix("a ")
        assert any(named.get(start + words) == phrase.objects for start in ("the ", "all "))
    assert {"car", "cars"} & {word for phrase in drawn for word in phrase.text.split()}
    assert all(PLURALS[name] != name for name in NAMES)
