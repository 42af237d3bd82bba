from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segrefine.datasets.expressions import read_refs
from segrefine.errors import MaskError, SettingsError
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.train.expressions import ExpressionScenes
from segrefine.train.narratives import NarrativeScenes
from segrefine.train.part import Part
from segrefine.train.phrase_folder import PhraseFolder
from segrefine.train.prepared import Mixture, load_scene, prepare, store_scene
from segrefine.train.scenes import Region, TrainingScene
from segrefine.train.sources import LabelledMasks, SourceSpec
from tests.datasets import benchmark_sets
from tests.train.data import CLASSES, draw_scene, write_label_maps


def quiet(*_):
    pass


@pytest.fixture
def narratives(tmp_path):
    image, labels = draw_scene(np.random.default_rng(1))
    numbers = {1: 300, 2: 70000, 3: 12}
    ids = sum((labels == each) * number for each, number in numbers.items())
    for name in ("val2017", "panoptic_val2017"):
        (tmp_path / name).mkdir()
    Image.fromarray(image).save(tmp_path / "val2017/000000000007.jpg")
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "panoptic_val2017/000000000007.png")
    found = [each for each in (1, 2, 3) if (labels == each).any()]
    segments = [{"id": numbers[each], "category_id": each} for each in found]
    annotation = {"image_id": 7, "file_name": "000000000007.png", "segments_info": segments}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    (tmp_path / "panoptic_val2017.json").write_text(json.dumps({"annotations": [annotation], "categories": categories}))
    told = [{"utterance": "In", "segment_ids": []},
            {"utterance": "everything here.", "segment_ids": [str(numbers[each]) for each in found]}]  # fmt: skip
    narrative = {"image_id": "7", "caption": "In everything here.", "segments": told}
    (tmp_path / "png_coco_val2017.json").write_text(json.dumps([narrative]))
    return tmp_path, labels


def test_narratives(narratives):
    folder, labels = narratives
    source = SourceSpec(place=folder / "png_coco_val2017.json").open()
    assert isinstance(source, NarrativeScenes) and source.names == ["7"]
    scene = source.read(0)
    for region in scene.regions[:-1]:
        assert (region.mask == (labels == CLASSES.index(region.label) + 1)).all()
    assert scene.regions[-1].phrases == ("everything here",)
    assert (scene.regions[-1].mask == (labels > 0)).all() and (scene.ignored == (labels == 0)).all()


def test_narratives_without_their_masks(narratives):
    folder, _ = narratives
    os.rename(folder / "panoptic_val2017.json", folder / "other.json")
    with pytest.raises(MaskError, match=r"cannot find panoptic_val2017\.json"):
        SourceSpec(place=folder / "png_coco_val2017.json").open()


def write_expressions(folder, refs):
    (folder / "images").mkdir()
    Image.fromarray(draw_scene(np.random.default_rng(1))[0]).save(folder / "images/a.jpg")
    polygon = [2, 2, 30, 2, 30, 20, 2, 20]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 48, "width": 64}],
        "annotations": [{"id": 9, "image_id": 5, "category_id": 1, "segmentation": [polygon], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder / "refs(unc).p"


def ref(split="train"):
    return {"ref_id": 0, "ann_id": 9, "image_id": 5, "split": split, "sentences": [{"sent": "cat on left", "raw": "x"}]}


def test_expressions(tmp_path):
    source = SourceSpec(place=write_expressions(tmp_path, [ref(), ref("val")])).open()
    assert isinstance(source, ExpressionScenes)
    (region,) = source.read(0).regions
    assert region.phrases == ("cat on left",) and region.mask[10, 10] and not region.mask[40, 40]


@pytest.mark.parametrize("other", [{}, {"images": [{"id": 5, "file_name": "a.jpg"}]}, {"categories": []}])
def test_captions_without_masks_are_refused(tmp_path, other):
    content = {"annotations": [{"id": 1, "image_id": 5, "caption": "A cat on a mat."}]} | other
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(MaskError, match=r"captions\.json holds captions without masks") as caught:
        SourceSpec(place=tmp_path / "captions.json").open()
    assert "Panoptic Narrative Grounding" in caught.value.hint


@pytest.mark.parametrize(
    "entry", [{"split": "train"}, {"split": "train", "image_id": 5, "ann_id": 9, "sentences": 3}, 7]
)
def test_expressions_that_lack_something(tmp_path, entry):
    with pytest.raises(MaskError, match=r"refs\(unc\)\.p: an entry (lacks|is damaged)"):
        SourceSpec(place=write_expressions(tmp_path, [entry])).open()


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "refs(x).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(MaskError, match="it asks for posix.mkdir"):
        read_refs(tmp_path / "refs(x).p")
    assert not (tmp_path / "made").exists()


def test_phrases_with_masks(tmp_path):
    image, labels = draw_scene(np.random.default_rng(1))
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(image).save(tmp_path / "images/a.png")
    Image.fromarray(((labels > 0) * 255).astype(np.uint8)).save(tmp_path / "masks/m.png")
    (tmp_path / "phrases.json").write_text(json.dumps({"a.png": {"the boxes": "m.png", "all of it": "m.png"}}))
    source = SourceSpec(place=tmp_path).open()
    assert isinstance(source, PhraseFolder)
    (region,) = source.read(0).regions
    assert region.phrases == ("the boxes", "all of it") and (region.mask == (labels > 0)).all()


def test_label_maps_with_pixels_of_no_class(tmp_path):
    write_label_maps(tmp_path / "data", count=1)
    labels = np.array(Image.open(tmp_path / "data/masks/0.png"))
    labels[:4] = 255
    Image.fromarray(labels).save(tmp_path / "data/masks/0.png")
    source = SourceSpec(place=tmp_path / "data").open()
    assert isinstance(source, LabelledMasks)
    scene = source.read(0)
    assert (scene.ignored == (labels == 255)).all()
    for region in scene.regions:
        assert (region.mask == (labels == CLASSES.index(region.label) + 1)).all() and not region.single


@given(st.data())
def test_a_stored_scene_is_read_as_it_was(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    regions = [
        Region(mask=rng.random(size) < 0.5, label=data.draw(st.none() | st.text()),
               phrases=tuple(data.draw(st.lists(st.text(), max_size=2))), single=data.draw(st.booleans()))
        for _ in range(data.draw(st.integers(0, 9)))
    ]  # fmt: skip
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    scene = TrainingScene(image=image, regions=tuple(regions), ignored=rng.random(size) < 0.1, known=frozenset())
    file = tmp_path_factory.mktemp("scene") / "0.npz"
    store_scene(file, scene)
    found = load_scene(file)
    assert (found.image == image).all() and (found.ignored == scene.ignored).all()
    for one, other in zip(found.regions, regions, strict=True):
        assert (one.mask == other.mask).all()
        assert (one.label, one.phrases, one.single) == (other.label, other.phrases, other.single)


def test_data_is_read_once_and_broken_images_are_named(tmp_path):
    folder = write_label_maps(tmp_path / "data", count=4)
    Image.fromarray(np.ones((9, 9), np.uint8)).save(folder / "masks/2.png")  # of another size
    (folder / "masks/3.png").unlink()
    first = prepare(SourceSpec(place=folder), tmp_path / "cache", 32, quiet)
    assert [scene["name"] for scene in first.scenes] == ["0", "1"]
    assert [problem["name"] for problem in first.problems] == ["2", "3"]
    assert "64×48" in first.problems[0]["message"] and "no mask" in first.problems[1]["message"]
    for file in (folder / "images").iterdir():
        file.unlink()
    again = prepare(SourceSpec(place=folder), tmp_path / "cache", 32, quiet)
    assert again.scenes == first.scenes and again.problems == first.problems


def test_data_without_one_usable_image(tmp_path):
    folder = write_label_maps(tmp_path / "data", count=2)
    for file in (folder / "masks").iterdir():
        file.unlink()
    with pytest.raises(MaskError, match="no image that can be trained on; the first problem: 0: there is no mask"):
        prepare(SourceSpec(place=folder), tmp_path / "cache", 32, quiet)


def test_data_sets_are_drawn_by_their_weights(tmp_path):
    sets = (("a", 0, 1.0), ("b", 1, 3.0))
    parts = [prepare(SourceSpec(place=write_label_maps(tmp_path / name, count=3, seed=seed), weight=weight),
                     tmp_path / "cache", 32, quiet) for name, seed, weight in sets]  # fmt: skip
    images = [{prepared.read(row).image.tobytes() for row in range(3)} for prepared in parts]
    mixture, rng = Mixture(parts=parts, closed_world=False), np.random.default_rng(0)
    drawn = [mixture.draw(rng).image.tobytes() in images[1] for _ in range(400)]
    assert 0.65 < np.mean(drawn) < 0.85
    assert mixture.classes == sorted(CLASSES)


@given(st.text(alphabet="ab=/.", min_size=1, max_size=8), st.floats(0.001, 1000))
def test_places_with_weights(place, weight):
    spec = SourceSpec.parse(f"{place}={weight!r}")
    assert str(spec.place) == str(type(spec.place)(place)) and spec.weight == weight


@pytest.mark.parametrize("text", ["data=0", "data=-1", "data=many", "data=inf", "data=nan"])
def test_weights_that_are_none(text):
    with pytest.raises(SettingsError, match="expected PATH or PATH=WEIGHT"):
        SourceSpec.parse(text)


def test_benchmarks_in_their_own_layout_give_their_training_part(tmp_path):
    """Folder and file are read alike, and the images are found where the archives have them."""
    told = benchmark_sets.narrative(1, ("We can see", ()), ("a fox", [1]))
    root = benchmark_sets.write_narratives(tmp_path / "png", [told], "train2017")
    for place in (root, root / "annotations/png_coco_train2017.json"):
        scene = SourceSpec(place=place).open().read(0)
        phrases = [phrase for region in scene.regions for phrase in region.phrases]
        assert [str(each) for each in phrases if isinstance(each, CaptionedPhrase)] == ["a fox"]
    refs = [benchmark_sets.ref(1, 1, 5, "train", (10, "the fox")), benchmark_sets.ref(2, 2, 8, "val", (11, "none"))]
    folder = benchmark_sets.write_expressions(tmp_path / "refer", refs)
    for place in (folder.parent, folder, folder / "refs(unc).p"):
        source = SourceSpec(place=place).open()
        assert list(source.names) == ["1"] and source.read(0).regions[0].phrases == ("the fox",)


def test_objects_train_on_their_training_part_alone(tmp_path):
    root = benchmark_sets.write_davis(tmp_path / "DAVIS")
    with pytest.raises(MaskError, match="has no split 'train'"):
        SourceSpec(place=root).open()
    (root / "ImageSets/2017/train.txt").write_text("bear\n")
    assert list(SourceSpec(place=root).open().names) == ["bear/00000"]
    with pytest.raises(MaskError, match="has no split 'train'"):
        SourceSpec(place=benchmark_sets.write_big(tmp_path / "big")).open()


def test_split_and_classes_choose_the_part_of_a_benchmark(tmp_path):
    """`train` reads its split, and one of two benchmarks that share a folder."""
    root = benchmark_sets.write_davis(tmp_path / "DAVIS")
    (root / "ImageSets/2017/train.txt").write_text("bear\n")
    val = SourceSpec(place=root, part=Part(split="val")).open()
    assert list(val.names) == ["bear/00000", "bmx-trees/00000"]
    refs = [benchmark_sets.ref(1, 1, 5, "train", (10, "the fox")), benchmark_sets.ref(2, 2, 8, "val", (11, "none"))]
    folder = benchmark_sets.write_expressions(tmp_path / "refer", refs)
    assert list(SourceSpec(place=folder, part=Part(split="val")).open().names) == ["2"]
    with pytest.raises(MaskError, match="split 'testA'"):
        SourceSpec(place=folder, part=Part(split="testA")).open()
    without = [{name: value for name, value in ref.items() if name != "split"} for ref in refs]
    whole = benchmark_sets.write_expressions(tmp_path / "whole", without)
    for split in ("train", "val"):
        assert list(SourceSpec(place=whole, part=Part(split=split)).open().names) == ["1", "2"]


def test_classes_tell_benchmarks_of_one_folder_apart(tmp_path):
    benchmark_sets.write_voc(tmp_path)
    benchmark_sets.write_context(tmp_path)
    with pytest.raises(MaskError) as raised:
        SourceSpec(place=tmp_path, part=Part(split="val")).open()
    assert "--classes" in (raised.value.hint or "")
    found = [SourceSpec(place=tmp_path, part=Part(split="val", classes=name)).open() for name in ("voc", "context59")]
    voc, context = (source.read(0) for source in found)
    assert [region.label for region in voc.regions] == [region.label for region in context.regions] == ["car", "cat"]
    assert voc.ignored.sum() < context.ignored.sum()  # no class of Context's 59 is background
    assert SourceSpec(place=tmp_path).part.describe() == []
