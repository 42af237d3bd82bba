"""Class activation maps as weakly supervised methods write them: read, refined, written, read by their own rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segrefine.cli import main
from segrefine.datasets.cam_scores import BackgroundRule, enlarge, logits_to_prior
from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.datasets.items import Key
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_data_set
from segrefine.errors import MaskError, SettingsError
from segrefine.runtime.files.output import save_label_map
from tests.datasets.trial import CAR, FOX, SIZE, read, read_all, save
from tests.examples import examples

VOC, CITYSCAPES = CLASS_LISTS["voc"], CLASS_LISTS["cityscapes"]


@dataclass(frozen=True)
class Refined:
    mask: np.ndarray
    probability: np.ndarray


def content_of(file: Path) -> dict:
    return np.load(file, allow_pickle=True).item()


def with_background(maps: np.ndarray, keys: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The rule of IRN, CLIP-ES, ToCo and MCTformer: the highest score, the background's among them."""
    scores = np.concatenate([np.broadcast_to(background, (1, *maps.shape[1:])).astype(maps.dtype), maps])
    return np.concatenate([[0], keys + 1])[scores.argmax(0)]


def by_constant(level: float):
    return lambda maps, keys: with_background(maps, keys, np.array(level))


def by_power(power: float):
    return lambda maps, keys: with_background(maps, keys, (1 - maps.max(0, keepdims=True)) ** power)


def irn(maps, keys):
    torch = pytest.importorskip("torch")
    strided = np.stack([np.asarray(Image.fromarray(each).resize((8, 6), Image.Resampling.BOX)) for each in maps])
    return {"keys": torch.tensor(keys), "cam": torch.from_numpy(strided), "high_res": maps}


def clip_es(maps, keys):
    return {"keys": np.array(keys), "attn_highres": maps.astype(np.float16)}


WRITERS = {
    "irn": (irn, "high_res", by_constant(0.15), None),
    "toco": (lambda m, k: {"keys": np.array(k), "high_res": m}, "high_res", by_constant(0.45), "0.45"),
    "clip-es": (clip_es, "attn_highres", by_power(1), None),
    "clip-es 4": (clip_es, "attn_highres", by_power(4), "power:4"),
    "mctformer": (lambda m, k: dict(zip(k, m, strict=True)), None, by_constant(0.4), None),
    "psa": (lambda m, k: dict(zip(map(np.int64, k), m, strict=True)), None, by_power(24), "power:24"),
}  # fmt: skip


def decided(content: dict, entry: str | None, rule) -> np.ndarray:
    if entry is None:
        return rule(np.stack(list(content.values())), np.array(list(content)))
    return rule(content[entry], np.asarray(content["keys"]))


def data_set(folder: Path, content: dict, **options):
    for name in ("a", "sub/a", "sub/b"):
        (folder / "masks/sub").mkdir(exist_ok=True)
        np.save(folder / f"masks/{name}.npy", np.array(content, dtype=object), allow_pickle=True)
    return open_data_set(folder, options=ReadingOptions(**options))


def some_maps(seed: int, classes: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((classes, 6, 8)).astype(np.float32) ** 2
    maps = enlarge(coarse, SIZE, "maps")
    return maps / maps.max((1, 2), keepdims=True)


def some_results(reading, seed: int) -> dict:
    """What refining may give: other masks with no pixel in common, and probabilities on their sides of one half."""
    rng = np.random.default_rng(seed + 1)
    owner = np.asarray(
        Image.fromarray(rng.integers(0, len(reading.masks) + 1, (6, 8)).astype(np.uint8)).resize(SIZE[::-1], 0)
    )
    results = {}
    for place, each in enumerate(reading.masks, 1):
        share = rng.random(SIZE).astype(np.float32) / 2
        results[each.key] = Refined(owner == place, np.where(owner == place, 1 - share, share))
    return results


@pytest.mark.parametrize("writer", WRITERS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=examples(12), deadline=None)
def test_the_method_s_own_rule_reads_what_was_read_and_what_was_written(tmp_path_factory, writer, seed):
    make, entry, rule, background = WRITERS[writer]
    folder = tmp_path_factory.mktemp("cams")
    save(folder / "images/a.png", np.full((*SIZE, 3), 90, np.uint8))
    (folder / "masks").mkdir()
    content, keys = make(some_maps(seed), [6, 14, 2]), [6, 14, 2]
    dataset = data_set(folder, content, background=background)
    item = dataset.items[0]
    assert dataset.title == "CAM"
    parts = dataset.read(item, np.zeros((*SIZE, 3), np.uint8))
    theirs = decided(content, entry, rule)
    for key in keys:
        np.testing.assert_array_equal(parts.masks[VOC.names[key + 1]] > 0.5, theirs == key + 1)
    results = some_results(read(dataset, item), seed)
    dataset.write(item, results, SIZE, folder / "out")
    if not results:
        return
    written = content_of(folder / "out/masks/a.npy")
    theirs = decided(written, entry, rule)
    for key in keys:
        expected = results[VOC.names[key + 1]].mask if VOC.names[key + 1] in results else np.zeros(SIZE, bool)
        np.testing.assert_array_equal(theirs == key + 1, expected)
    assert list(written) == [int(key) if not isinstance(key, str) else key for key in content]
    for name, value in content.items():
        assert np.asarray(written[int(name) if entry is None else name]).shape == np.asarray(value).shape
        assert np.asarray(written[int(name) if entry is None else name]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("entry", ["msc_segs", "segs", "msc_seg"])
@pytest.mark.parametrize("classes", ["voc", "cityscapes"])
@pytest.mark.parametrize("small", [False, True])
def test_logits_of_all_classes(folder, tmp_path, entry, classes, small):
    """WeCLIP and ToCo: a score for each class, the background first where the list has one."""
    listed = CLASS_LISTS[classes]
    count = len(listed.names) + (listed.background is not None)
    logits = np.random.default_rng(1).normal(size=(1, count, 6, 8)).astype(np.float32) * 3
    if not small:
        logits = enlarge(logits[0], SIZE, "logits")[None]
    dataset = data_set(folder, {entry: logits}, classes=classes)
    item, image = dataset.items[0], np.zeros((*SIZE, 3), np.uint8)
    parts, theirs = dataset.read(item, image), enlarge(logits[0], SIZE, "logits").argmax(0)
    indices = {name: index for index, name in listed.names.items()}
    shown = {name for name, index in indices.items() if (theirs == index).any()}
    assert set(parts.masks) == shown
    for name in shown:
        np.testing.assert_array_equal(parts.masks[name] > 0.5, theirs == indices[name])
    results = some_results(read(dataset, item), 5)
    dataset.write(item, results, SIZE, tmp_path / "out")
    written = content_of(tmp_path / "out/masks/a.npy")[entry]
    assert written.shape == (1, count, *SIZE)
    expected = np.zeros(SIZE, int) if listed.background is not None else theirs.copy()
    for prompt_key, result in results.items():
        expected[result.mask] = indices[prompt_key]
    np.testing.assert_array_equal(written[0].argmax(0), expected)


def test_soft_values_are_kept_as_the_prior(folder):
    maps = some_maps(3, 1)
    dataset = data_set(folder, {"keys": np.array([6]), "attn_highres": maps})
    [(label, mask)] = read_all(dataset, dataset.items[0])
    assert label == "car" and len(np.unique(mask)) > 100
    np.testing.assert_allclose(mask, maps[0], atol=2e-4)  # against 1 - v, the share of v is v


@pytest.mark.parametrize(
    "rule", [BackgroundRule(value=0.15), BackgroundRule(value=0.6), BackgroundRule(value=4, is_power=True)]
)
def test_there_and_back(rule):
    prior = np.linspace(0.001, 0.6, 500, dtype=np.float32).reshape(1, 20, 25)
    np.testing.assert_allclose(rule.to_prior(rule.to_maps(prior))[0], prior[0], atol=2e-3)


def test_enlarging_is_that_of_the_methods():
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).random((2, 6, 8), np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], SIZE, mode="bilinear", align_corners=False)[
        0
    ]
    np.testing.assert_allclose(enlarge(maps, SIZE, "maps"), theirs.numpy(), atol=1e-6)


def test_a_tie_goes_to_the_first_as_argmax_has_it():
    maps = np.full((2, 1, 2), 0.5, np.float32)
    maps[:, 0, 1] = 0.1
    prior = BackgroundRule(value=0.1).to_prior(maps)
    assert (prior > 0.5).tolist() == [[[True, False]], [[False, False]]]
    assert (logits_to_prior(np.zeros((3, 1, 1), np.float32)) > 0.5).ravel().tolist() == [True, False, False]


def test_keys_and_class_lists(folder):
    maps = some_maps(4, 2)
    found = [
        [each.label for each in read(dataset, dataset.items[0]).masks]
        for options in (
            {},
            {"key_offset": 0},
            {"classes": "coco-object"},
            {"classes": "cityscapes"},
            {"classes": "ade20k"},
        )
        for dataset in [data_set(folder, {"keys": np.array([3, 12]), "high_res": maps}, **options)]
    ]
    assert found == [["boat", "horse"], ["bird", "dog"], ["motorcycle", "parking meter"],
                     ["wall", "person riding a bicycle"], ["floor", "person"]]  # fmt: skip


def test_the_entry_that_is_named(folder):
    first, second = some_maps(1, 1), some_maps(2, 1)
    content = {"keys": np.array([0]), "high_res": first, "mine": second}
    for entry, maps in ((None, first), ("mine", second)):
        dataset = data_set(folder, content, maps=entry, background="power:1")
        np.testing.assert_allclose(read_all(dataset, dataset.items[0])[0][1], maps[0], atol=2e-4)


MAPS = some_maps(0, 2)
KEYS = np.array([0, 3])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no maps that are known: got a dictionary of nothing"), ({"x": MAPS}, "got a dictionary of 'x'"),
        ({"keys": KEYS}, "no maps that are known"), ({"high_res": MAPS}, "expected 'keys' as whole numbers"),
        ({"keys": [0.5, 1], "high_res": MAPS}, "expected 'keys' as whole numbers"),
        ({"keys": KEYS[:1], "high_res": MAPS}, r"of the shape \(1, height, width\); got \(2, 24, 32\)"),
        ({"keys": KEYS, "high_res": MAPS[0]}, "expected high_res of the shape"),
        ({"keys": KEYS, "high_res": "x"}, "expected an array of maps"),
        ({"keys": KEYS, "high_res": MAPS * 9}, "expected activations from 0 to 1, got"),
        ({"keys": KEYS, "high_res": MAPS - 1}, "expected activations from 0 to 1"),
        ({"keys": KEYS, "high_res": MAPS * np.nan}, "expected activations from 0 to 1, got NaN"),
        ({"keys": KEYS, "high_res": (MAPS * 255).astype(np.uint8)}, "expected maps of floats"),
        ({"keys": np.array([3, 3]), "high_res": MAPS}, "a key comes twice"),
        ({"keys": np.array([3, 99]), "high_res": MAPS}, "class 100 is not among the 20"),
        ({"keys": np.array([-9, 9]), "high_res": MAPS}, "class -8 is not among"),
        ({"keys": KEYS, "high_res": np.repeat(MAPS, 2, 1)}, "expected maps for an image of 32×24 pixels, got 32×48"),
        ({"keys": KEYS, "high_res": MAPS[:, :12]}, "expected maps for an image of 32×24 pixels, got 32×12"),
        ({0: MAPS[0], 1: MAPS[1][:5]}, "several shapes"), ({0: MAPS[0], "a": MAPS[1]}, "no maps that are known"),
        ({"segs": MAPS}, r"expected segs of the shape \(21, height, width\); got \(2, 24, 32\)"),
        ({"segs": np.full((21, *SIZE), np.inf, np.float32)}, "numbers that are not finite"),
        ([MAPS], "refused"), ("text", "expected a dictionary, got str"),
        ({"keys": KEYS, "high_res": {"x": MAPS}}, "refused: it holds a dict"),
    ],
)  # fmt: skip
def test_dictionaries_that_are_refused_say_why(folder, content, words):
    dataset = data_set(folder, content)
    with pytest.raises(MaskError, match=words) as caught:
        read(dataset, dataset.items[0])
    assert caught.value.hint and "a.npy" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "x", "0", "1", "-0.5", "power:", "power:0", "power:x", "nan", "power:1e3", "1e-1"]
)
def test_background_rules_that_are_none(text):
    with pytest.raises(SettingsError, match="expected a background score") as caught:
        ReadingOptions(background=text)
    assert "power:4" in caught.value.hint


def test_options_that_would_do_nothing_are_refused(folder):
    save_label_map(folder / "masks/a.png", np.where(FOX, 7, 0))
    with pytest.raises(
        SettingsError, match="--background is for class activation maps, and the data set is in another"
    ):
        open_data_set(folder, options=ReadingOptions(background="0.2"))
    with pytest.raises(SettingsError, match="--boxes is for .*COCO JSON.*: label maps$"):
        open_data_set(folder, options=ReadingOptions(boxes=True))
    with pytest.raises(MaskError, match="no class list 'imagenet'") as caught:
        open_data_set(folder, options=ReadingOptions(classes="imagenet"))
    assert "context59" in caught.value.hint


@pytest.mark.parametrize("classes", CLASS_LISTS)
def test_class_lists_are_read_as_label_maps(folder, tmp_path, classes):
    listed = CLASS_LISTS[classes]
    first, second = min(listed.names), max(listed.names)
    indices = np.where(FOX, first, np.where(CAR, second, 0 if listed.background or 0 in listed.ignored else 255))
    indices[0] = 255
    for name in ("a", "sub/a", "sub/b"):
        (folder / "masks/sub").mkdir(exist_ok=True)
        save_label_map(folder / f"masks/{name}.png", indices)
    dataset = open_data_set(folder, options=ReadingOptions(classes=classes))
    reading = read(dataset, dataset.items[0])
    names = [listed.names[first], listed.names[second]]
    assert [each.key for each in reading.masks] == names
    assert [each.label for each in reading.masks] == [listed.prompts.get(name, name) for name in names]
    grown = FOX | (np.arange(SIZE[1]) < 3)
    results: dict[Key, Refined] = {names[0]: Refined(grown, grown * 0.9), names[1]: Refined(CAR, CAR * 0.9)}
    dataset.write(dataset.items[0], results, SIZE, tmp_path / "out")
    written = np.asarray(Image.open(tmp_path / "out/masks/a.png"))
    outside = ~(grown | CAR)
    np.testing.assert_array_equal(written[outside], indices[outside])
    assert (written[grown] == first).all() and (written[CAR] == second).all()


def test_maps_are_compared_with_label_maps(folder, tmp_path):
    maps = np.stack([FOX, CAR]).astype(np.float32) * 0.8
    data_set(folder, {"keys": np.array([6, 14]), "high_res": maps[:, ::4, ::4]})
    truth = np.where(FOX, 7, np.where(CAR, 15, 0))
    for name in ("a", "sub/a", "sub/b"):
        (tmp_path / "truth" / name).parent.mkdir(parents=True, exist_ok=True)
        save_label_map(tmp_path / "truth" / f"{name}.png", truth)
    done = CliRunner().invoke(main, ["eval", str(folder), str(tmp_path / "truth"), "--json", "--background", "0.4"])
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and values["images"] == 3, done.output
    dataset = open_data_set(folder, options=ReadingOptions(background="0.4"))
    found = {each.label: each.foreground for each in read(dataset, dataset.items[0]).masks}
    for label, true in (("car", FOX), ("person", CAR)):
        iou = (found[label] & true).sum() / (found[label] | true).sum()
        assert values["iou_of_classes"][label] == pytest.approx(iou) and iou > 0.5
