"""The training data of `photo`, on photographs drawn here."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.assets import photo_gs_checkpoint
from segrefine.reference.checkpoint import load_checkpoint
from tests.examples import examples
from training.photos.compose import ASKED, LabelledScene, SceneComposer
from training.photos.export import main as export_run
from training.photos.gate import photo_cases
from training.photos.model import take_ends
from training.photos.pool import build_pool
from training.photos.questions import Question, ask
from training.photos.samples import SAMPLES, read_resources
from training.photos.train import IMAGES, PhotoTraining, _evidence_loss, prepare
from training.photos.words import NAMES, SEVEN, VOID, caption, number_of, vary_caption

SIDE = 64
VOC = ["background", "aeroplane", "bird", "cat", "cow", "dog", "horse", "person", "sheep", "tvmonitor"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder laid out as the real one: two VOC photographs of each class, one of cats, one of COCO."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("voc/images", "voc/masks", "cats/images", "cats/masks", "coco/images"):
        (folder / name).mkdir(parents=True)
    (folder / "voc/classes.json").write_text(json.dumps(VOC))
    names: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(1, len(VOC)):
        for split in names:
            name = f"{split}_{number}"
            names[split].append(name)
            _draw(folder, "voc", name, number, rng, (150, 200) if number % 2 else (200, 140))
    for split, listed in names.items():
        (folder / f"voc/{split}.txt").write_text("\n".join(listed) + "\n")
    _draw(folder, "cats", "one", 1, rng, (120, 120))
    cv2.imwrite(str(folder / "coco/images/a.jpg"), rng.integers(0, 255, (90, 130, 3), np.uint8))
    square = [30, 20, 90, 20, 90, 70, 30, 70]
    annotations = [
        {"image_id": 1, "category_id": 7, "iscrowd": 0, "area": 3000, "segmentation": [square]},
        {
            "image_id": 1,
            "category_id": 8,
            "iscrowd": 0,
            "area": 100,
            "segmentation": [[40, 30, 80, 30, 80, 60, 40, 60]],
        },
        {
            "image_id": 1,
            "category_id": 7,
            "iscrowd": 1,
            "area": 9000,
            "segmentation": {"counts": [1], "size": [90, 130]},
        },
    ]
    categories = [{"id": 7, "name": "dining table"}, {"id": 8, "name": "dog"}]
    data = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations, "categories": categories}
    (folder / "coco/instances.json").write_text(json.dumps(data))
    return folder


def _draw(folder, kind, name, number, rng, size):
    """A photograph with one ellipse of class `number`, and a void line around it."""
    mask = np.zeros(size, np.uint8)
    centre = (size[1] // 2, size[0] // 2)
    cv2.ellipse(mask, centre, (size[1] // 4, size[0] // 5), 20, 0, 360, number, -1)
    cv2.ellipse(mask, centre, (size[1] // 4, size[0] // 5), 20, 0, 360, VOID, 2)
    image = rng.integers(0, 80, (*size, 3), np.uint8)
    image[mask == number] = (number * 20, 250 - number * 20, 200)
    cv2.imwrite(str(folder / kind / "images" / f"{name}.jpg"), image)
    cv2.imwrite(str(folder / kind / "masks" / f"{name}.png"), mask)


@pytest.fixture(scope="module")
def pool(photos, tmp_path_factory):
    return build_pool(photos, tmp_path_factory.mktemp("pool"), split="train", side=SIDE)


def test_photographs_and_cut_outs_keep_the_classes_of_their_sources(pool):
    dog, table, cat = number_of("dog"), number_of("diningtable"), number_of("cat")
    assert len(pool.photos) == len(VOC) - 1 + 2
    assert NAMES[table - 1] == "table" and number_of("unheard of") == VOID
    coco = pool.photos[len(pool.photos) - 1]
    assert {dog, table} <= set(np.unique(coco[..., 3]).tolist())  # the dog, which is smaller, lies over the table
    assert len(pool.cutters[cat]) == 2 and len(pool.cutters[dog]) == 2 and len(pool.cutters[table]) == 1
    for number in range(1, len(NAMES) + 1):
        for index in pool.holders[number]:
            assert number in pool.photos[int(index)][..., 3]


def test_a_pool_is_read_from_disk_as_it_was_built(photos, tmp_path):
    built = build_pool(photos, tmp_path / "pool", split="val", side=SIDE)
    again = build_pool(tmp_path / "no photographs here", tmp_path / "pool", split="val", side=SIDE)
    assert all(np.array_equal(built.photos[i], again.photos[i]) for i in range(len(built.photos)))
    assert len(built.photos) == len(VOC) - 1  # validation has no cats and no COCO


@given(seed=st.integers(0, 10**6))
@settings(max_examples=examples(60), deadline=None)
def test_scenes_show_what_their_labels_say(pool, seed):
    scene = SceneComposer(pool, SIDE).draw(np.random.default_rng(seed))
    again = SceneComposer(pool, SIDE).draw(np.random.default_rng(seed))
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.labels, again.labels)
    assert scene.image.shape == (SIDE, SIDE, 3) and scene.image.dtype == np.uint8
    present = set(np.unique(scene.labels).tolist())
    assert not present & set(scene.absent)
    assert present <= {0, VOID, *range(1, len(NAMES) + 1)}
    assert scene.shares()[1 : len(SEVEN) + 1].max() >= ASKED


@given(seed=st.integers(0, 10**6), left=st.integers(1, 7), right=st.integers(0, 80))
@settings(max_examples=examples(200), deadline=None)
def test_questions_name_what_is_there_and_what_is_not(seed, left, right):
    labels = np.zeros((64, 64), np.uint8)
    labels[:, :30] = left
    labels[:, 40:] = min(right, len(NAMES))
    present = set(np.unique(labels).tolist())
    absent = tuple(n for n in range(1, len(SEVEN) + 1) if n not in present)
    scene = LabelledScene(np.zeros((64, 64, 3), np.uint8), labels, absent)
    question = ask(np.random.default_rng(seed), scene)
    words = {n: set(NAMES[n - 1].split()) | {vary_plural(n)} for n in range(1, len(NAMES) + 1)}
    named = {n for n in words if words[n] & set(question.right.split())}
    second = {n for n in words if words[n] & set(question.second.split())}
    assert named == set(question.named) and named <= present
    assert second == set(question.rivals) if question.rivals else second and not second & present
    assert not named & second


def vary_plural(number):
    return next(
        text.split()[-1]
        for seed in range(1000)
        if (text := vary_caption(np.random.default_rng(seed), [NAMES[number - 1]])).startswith("a photo of ")
        and not text.startswith("a photo of a ")
    )


def test_captions_read_as_the_prompts_of_the_pipeline():
    assert caption(["cat"]) == "a photo of a cat"
    assert caption([]) == "" == vary_caption(np.random.default_rng(0), [])


def test_gate_cases_hold_an_object_and_a_word_that_is_not_in_the_photograph(photos, tmp_path):
    pool = build_pool(photos, tmp_path, split="val", side=SIDE)
    cases = photo_cases(pool, SIDE)
    assert sorted(cases.right) == list(range(1, len(SEVEN) + 1))
    assert all(right != wrong for right, wrong in zip(cases.right, cases.wrong, strict=True))
    assert cases.images.shape == (len(SEVEN), SIDE, SIDE, 3)
    assert (cases.region.amax((1, 2)) > 0.9).all() and (cases.region.amin((1, 2)) == 0).all()


def test_the_evidence_should_favour_what_a_caption_names_and_nothing_else():
    labels = np.zeros((128, 128), np.uint8)
    labels[:, :64], labels[:16] = 1, VOID
    scene = LabelledScene(np.zeros((128, 128, 3), np.uint8), labels, (2,))
    question = Question("a cat", "a dog", (1,), ())
    plain, cat = torch.ones(1, 16, 16), torch.from_numpy(labels == 1)[None, ::8, ::8]

    def loss(named, second):
        return float(_evidence_loss(torch.cat([named, second, plain]), [scene], [question]))

    right = torch.where(cat, 0.5, 1.5)
    assert loss(right, plain * 1.5) < 0.01 < loss(plain, plain) < loss(1 / right, plain) < loss(1 / right, 0.5 * plain)
    elsewhere = right.clone()
    elsewhere[:, :2] = 9  # what is unknown does not count
    assert loss(elsewhere, plain * 1.5) == pytest.approx(loss(right, plain * 1.5), rel=1e-6)


def test_the_denoiser_keeps_what_it_read_of_the_features_beside_a_mask():
    denoiser = UNet2DConditionModel.from_pretrained(photo_gs_checkpoint() / "label_denoiser").float()
    first, channels = denoiser.conv_in, 48
    features = torch.randn(2, channels, 16, 16)
    beside = torch.cat([torch.zeros(2, first.in_channels - channels, 16, 16), features], 1)
    with torch.no_grad():
        expected = first(beside)
        take_ends(denoiser, channels)
        assert torch.allclose(denoiser.conv_in(features), expected, atol=1e-5)
        output = denoiser(features, 500, torch.randn(2, 77, 128)).sample
    assert output.shape == features.shape


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(pool, photos, tmp_path):
    cases = photo_cases(build_pool(photos, tmp_path / "pool", split="val", side=SIDE), SIDE)

    def train(run, *totals):
        for total in totals:
            prepare(tmp_path / run, None, SIDE)
            training = PhotoTraining(tmp_path / run, SceneComposer(pool, SIDE), cases, 1e-4)
            training.loop.run(total, print)
        return [weight.detach() for each in training.networks.values() for weight in each.parameters()]

    whole, parts = train("whole", 2 * IMAGES), train("parts", IMAGES, 2 * IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    curve = [json.loads(line) for line in (tmp_path / "parts/curve.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in curve] == [IMAGES, 2 * IMAGES]
    assert all(0 <= line["gate"] <= 1 for line in curve)


def test_what_a_run_has_learned_is_a_checkpoint_that_exports(pool, photos, tmp_path):
    build_pool(photos, tmp_path / "run/pool/train", split="train", side=SIDE)
    prepare(tmp_path / "run", None, SIDE)
    cases = photo_cases(build_pool(photos, tmp_path, split="val", side=SIDE), SIDE)
    training = PhotoTraining(tmp_path / "run", SceneComposer(pool, SIDE), cases, 1e-4)
    training.loop.run(IMAGES, print)
    asked = [str(tmp_path / "run"), str(tmp_path / "checkpoint"), "--decoder-steps", "2"]
    answer = CliRunner().invoke(export_run, asked)
    assert answer.exit_code == 0, answer.output
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.unet.config.sample_size * checkpoint.vae_scale_factor == SIDE
    image = torch.rand(1, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        features = checkpoint.encode_image(image)
        assert features.shape == (1, 48, 8, 16)
        assert checkpoint.vae.decode(features).sample.shape == image.shape


@given(
    files=st.dictionaries(
        st.lists(st.text("abcé", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple),
        st.binary(max_size=40),
        min_size=1,
        max_size=5,
    ),
    packed=st.booleans(),
)
@settings(deadline=None)
def test_resource_files_are_read_as_qt_writes_them(files, packed):
    folders = {path[:depth] for path in files for depth in range(1, len(path))}
    files = {path: content for path, content in files.items() if path not in folders}
    written = dict(read_resources(_write_resources(files, packed=packed)))
    assert written == {"/" + "/".join(path): content for path, content in files.items()}


def _write_resources(files, *, packed):
    """Qt's resource format, version 1, as its documentation and `rcc` have it."""
    tree, names, contents = [()], b"", b""
    table, at = b"", 0
    while at < len(tree):
        path = tree[at]
        name_at = len(names)
        if path:
            names += struct.pack(">HI", len(path[-1]), 0) + path[-1].encode("utf-16be")
        if path in files:
            content = files[path]
            stored = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
            table += struct.pack(">IHHHI", name_at, int(packed), 0, 0, len(contents))
            contents += struct.pack(">I", len(stored)) + stored
        else:
            depth = len(path) + 1
            inside = sorted({each[:depth] for each in files if each[: len(path)] == path})
            table += struct.pack(">IHII", name_at, 2, len(inside), len(tree))
            tree += inside
        at += 1
    head = 20
    offsets = (1, head, head + len(table), head + len(table) + len(contents))
    return b"qres" + struct.pack(">4I", *offsets) + table + contents + names


def test_something_else_is_no_resource_file():
    with pytest.raises(ValueError, match="expected a Qt resource file"):
        list(read_resources(b"PK\x03\x04" + bytes(20)))


def test_the_photographs_that_ship_are_complete_and_attributed():
    from segrefine import assets

    folder = assets._FOLDER / "photos"
    labels = json.loads((folder / "labels.json").read_text())
    attribution = (folder / "ATTRIBUTION.md").read_text()
    assert labels == {name: sample.label for name, sample in SAMPLES.items()}
    assert set(labels.values()) <= set(SEVEN)
    for name, sample in SAMPLES.items():
        image = cv2.imread(str(folder / f"images/{name}.jpg"))
        coarse, truth = (
            np.asarray(cv2.imread(str(folder / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED), np.uint8)
            for kind in ("masks", "truth")
        )
        assert max(image.shape[:2]) == 256 and coarse.shape == truth.shape == image.shape[:2]
        assert set(np.unique(coarse)) == set(np.unique(truth)) == {0, 255}
        assert 0.3 < (coarse & truth).sum() / (coarse | truth).sum() < 0.9
        assert sample.author in attribution and sample.licence in attribution and sample.address in attribution
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 400_000
