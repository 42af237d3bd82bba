from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segrefine.train.augment import STRENGTHS, mirror_scene, paste_object
from segrefine.train.scenes import Region, TrainingScene
from segrefine.train.templates import TEMPLATES, draw_phrases, list_words, mirror_phrase, plural

CLASSES = {"cat": 0.4, "dog": 0.4, "sheep": 0.05, "person": 0.15}


def scene_of(*boxes: tuple[str, int, int, int, int], known=CLASSES, size=(40, 60)) -> TrainingScene:
    regions = []
    for label, top, left, height, width in boxes:
        mask = np.zeros(size, np.bool_)
        mask[top : top + height, left : left + width] = True
        regions.append(Region(mask=mask, label=label, single=True))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return TrainingScene(image=image, regions=tuple(regions), ignored=np.zeros(size, np.bool_), known=frozenset(known))


def always(text: str) -> bool:
    return True


def listed(scene: TrainingScene, kind: str) -> dict[str, np.ndarray]:
    return {asked.text: asked.mask for asked in TEMPLATES[kind](scene, CLASSES)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cat", "cats"), ("wine glass", "wine glasses"), ("sheep", "sheep"), ("person", "people"), ("box", "boxes"),
     ("city", "cities"), ("key", "keys"), ("bench", "benches"), ("police man", "police men")],
)  # fmt: skip
def test_plural(name, expected):
    assert plural(name) == expected


def test_words_are_those_of_names_and_plurals():
    assert list_words(["wine glass", "Cat"]) == ["cat", "cats", "glass", "glasses", "wine"]


@given(st.lists(st.sampled_from(["the", "left", "right", "cat", "leftover", "upright", "Left"]), min_size=1))
def test_mirrored_twice_is_the_phrase_and_no_other_word_changes(words):
    text = " ".join(words)
    assert mirror_phrase(mirror_phrase(text)) == text
    swap = {"left": "right", "right": "left", "Left": "Right"}
    assert mirror_phrase(text).split() == [swap.get(word, word) for word in words]


def test_each_kind_names_its_region():
    scene = scene_of(("cat", 5, 2, 20, 12), ("dog", 6, 40, 20, 15))
    cat, dog = (region.mask for region in scene.regions)
    of_class = listed(scene, "class")
    assert set(of_class) == {"the cat", "the dog"} and (of_class["the cat"] == cat).all()
    places = listed(scene, "place")
    assert set(places) == {"the cat left of the dog", "the dog right of the cat"}
    assert (places["the cat left of the dog"] == cat).all()
    assert (listed(scene, "union")["the cat and the dog"] == (cat | dog)).all()
    assert (listed(scene, "background")["the background"] == ~(cat | dog)).all()
    absent = listed(scene, "absent")
    assert set(absent) == {"the sheep", "the person"} and not any(mask.any() for mask in absent.values())


def test_two_of_a_class_are_asked_for_together_or_by_their_side():
    scene = scene_of(("cat", 5, 2, 20, 12), ("cat", 6, 40, 20, 15))
    assert set(listed(scene, "class")) == {"all cats"}
    places = listed(scene, "place")
    assert (places["the left cat"] == scene.regions[0].mask).all()
    assert (places["the right cat"] == scene.regions[1].mask).all()


def test_a_class_that_is_not_annotated_is_not_called_absent():
    assert set(listed(scene_of(("cat", 5, 2, 20, 12), known=["cat", "dog"]), "absent")) == {"the dog"}
    assert not listed(scene_of(("cat", 5, 2, 20, 12), known=["cat", "dog"]), "background")


def test_a_class_that_can_hardly_be_seen_is_neither_asked_for_nor_absent():
    scene = scene_of(("cat", 5, 2, 20, 12), ("dog", 0, 0, 2, 2))
    assert set(listed(scene, "class")) == {"the cat"}
    assert "the dog" not in listed(scene, "absent")


@given(st.integers(0, 2**32 - 1))
@example(2220319)  # the cat lies exactly as far beside the dog as "left of" asks for
def test_flipping_a_scene_keeps_every_phrase_true(seed):
    rng = np.random.default_rng(seed)
    boxes = [(label, *rng.integers(0, 25, 2).tolist(), *rng.integers(6, 20, 2).tolist()) for label in ("cat", "dog")]
    scene = scene_of(*boxes)
    before, after = listed(scene, "place"), listed(mirror_scene(scene), "place")
    assert {mirror_phrase(text) for text in before} == set(after)
    for text, mask in before.items():
        assert (after[mirror_phrase(text)] == mask[:, ::-1]).all()


def test_own_phrases_are_flipped_too():
    scene = scene_of(("cat", 5, 2, 20, 12))
    named = TrainingScene(
        image=scene.image, ignored=scene.ignored, known=scene.known,
        regions=(Region(mask=scene.regions[0].mask, phrases=("animal on the left",)),),
    )  # fmt: skip
    assert mirror_scene(named).regions[0].phrases == ("animal on the right",)


@given(st.integers(0, 2**32 - 1))
def test_a_pasted_object_hides_what_lies_under_it(seed):
    rng = np.random.default_rng(seed)
    scene, donor = scene_of(("cat", 2, 2, 30, 40)), scene_of(("dog", 5, 5, 20, 20), known=["dog", "cat"])
    made = paste_object(rng, scene, donor, STRENGTHS["strong"])
    masks = {region.label: region.mask for region in made.regions}
    assert masks["dog"].any() and not (masks.get("cat", ~masks["dog"]) & masks["dog"]).any()
    assert made.known == {"dog", "cat"}


def test_phrases_of_a_scene_differ_and_depend_on_the_generator_alone():
    scene = scene_of(("cat", 5, 2, 20, 12), ("dog", 6, 40, 20, 15))
    drawn = [draw_phrases(np.random.default_rng(seed), scene, 4, CLASSES, always) for seed in (1, 1, 2)]
    texts = [[asked.text for asked in each] for each in drawn]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 4


def test_absent_classes_are_asked_for_as_often_as_the_data_shows_them():
    scene, rng = scene_of(("cat", 5, 2, 20, 12)), np.random.default_rng(0)
    drawn = [draw_phrases(rng, scene, 1, CLASSES, always)[0] for _ in range(1500)]
    texts = [asked.text.split()[-1] for asked in drawn if asked.kind == "absent"]
    whole = CLASSES["dog"] + CLASSES["sheep"] + CLASSES["person"]
    for name in ("dog", "sheep", "person"):
        assert texts.count(name) / len(texts) == pytest.approx(CLASSES[name] / whole, abs=0.08)


@given(st.integers(0, 2**32 - 1), st.integers(7, 30))
def test_a_phrase_that_does_not_fit_is_never_asked(seed, most):
    scene = scene_of(("cat", 5, 2, 20, 12), ("dog", 6, 40, 20, 15))
    drawn = draw_phrases(np.random.default_rng(seed), scene, 6, CLASSES, lambda text: len(text) <= most)
    assert drawn and all(len(asked.text) <= most for asked in drawn)
