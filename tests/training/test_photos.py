"""The training data of `photo`, on photographs drawn here."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.assets import demo_checkpoint, demo_gs_checkpoint
from tests.examples import examples
from training.photos.classes import PhotoClassTraining, class_loss
from training.photos.compose import ASKED, LabelledScene, SceneComposer
from training.photos.gate import photo_cases
from training.photos.model import CHANNELS, PhotoDenoiser, fold_vae, load_emoji, new_photo_text_encoder, new_photo_unet
from training.photos.pool import build_pool
from training.photos.questions import ask
from training.photos.samples import SAMPLES, read_resources
from training.photos.train import MARGIN, _margin
from training.photos.words import NAMES, SEVEN, VOID, caption, number_of, vary_caption

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
    return build_pool(photos, tmp_path_factory.mktemp("pool"), split="train")


@pytest.fixture(scope="module")
def emoji():
    return load_emoji(demo_checkpoint())


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
    built = build_pool(photos, tmp_path / "pool", split="val")
    again = build_pool(tmp_path / "no photographs here", tmp_path / "pool", split="val")
    assert all(np.array_equal(built.photos[i], again.photos[i]) for i in range(len(built.photos)))
    assert len(built.photos) == len(VOC) - 1  # validation has no cats and no COCO


@given(seed=st.integers(0, 10**6))
@settings(max_examples=examples(60), deadline=None)
def test_scenes_show_what_their_labels_say(pool, seed):
    scene = SceneComposer(pool).draw(np.random.default_rng(seed))
    again = SceneComposer(pool).draw(np.random.default_rng(seed))
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.labels, again.labels)
    assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
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
    assert question.target in named and named <= present
    assert second == ({question.rival} if question.rival else second)
    assert second <= present if question.sound else not second & present
    assert bool(second) or question.second == ""
    assert question.rival != question.target


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
    pool = build_pool(photos, tmp_path, split="val")
    cases = photo_cases(pool)
    assert sorted(cases.right) == list(range(1, len(SEVEN) + 1))
    assert all(right != wrong for right, wrong in zip(cases.right, cases.wrong, strict=True))
    assert cases.images.shape == (len(SEVEN), 64, 64, 3)
    assert (cases.region.amax((1, 2)) > 0.9).all() and (cases.region.amin((1, 2)) == 0).all()


@pytest.mark.parametrize(("lack", "expected"), [(0.0, MARGIN), (MARGIN / 2, MARGIN / 2), (1.0, 0.0)])
def test_the_margin_asks_the_right_caption_to_win_in_its_region_and_the_rival_in_its_own(lack, expected):
    labels = np.zeros((64, 64), np.uint8)
    labels[:, :32], labels[:, 32:] = 1, 2
    scene = LabelledScene(np.zeros((64, 64, 3), np.uint8), labels, (3, 4, 5, 6, 7))
    questions = [ask(np.random.default_rng(seed), scene) for seed in range(40)]
    rivals = [question for question in questions if question.rival]
    assert rivals
    regions = [torch.from_numpy(labels == n).float()[::4, ::4] for n in range(3)]
    first = torch.stack([regions[q.target] + (1 + lack) * regions[q.rival] for q in rivals])
    second = torch.stack([regions[q.rival] + (1 + lack) * regions[q.target] for q in rivals])
    stacked = torch.from_numpy(labels).long().repeat(len(rivals), 1, 1)
    assert float(_margin(torch.cat([first, second]), stacked, rivals)) == pytest.approx(expected, abs=1e-5)
    lost = float(_margin(torch.cat([second, first]), stacked, rivals))
    assert lost == pytest.approx(MARGIN + lack / (1 + lack), abs=1e-5)


def test_void_pixels_teach_no_class():
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, :32] = VOID
    logits = torch.zeros(1, 2 + len(SEVEN), 16, 16, requires_grad=True)
    class_loss(logits, labels).backward()
    assert float(logits.grad[:, :, :8].abs().max()) == 0 < float(logits.grad[:, :, 8:].abs().max())


def test_the_denoiser_starts_as_the_emoji_model_on_the_latents_that_both_know(pool, emoji):
    from diffusers import AutoencoderKL

    wide = AutoencoderKL.from_pretrained(demo_gs_checkpoint() / "vae").float().eval()
    composer = SceneComposer(pool)
    vae, down = fold_vae(wide, composer, count=100)
    rng = np.random.default_rng(1)
    images = torch.from_numpy(np.stack([composer.draw(rng).image for _ in range(8)])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents, ours = (
            wide.encode(images).latent_dist.mean * wide.config.scaling_factor,
            vae.encode(images).latent_dist.mean,
        )
        # The new latents are a linear map of the wide ones, up to a constant.
        mapped = torch.einsum("cw,bwyx->bcyx", down, latents)
        assert torch.allclose(mapped - mapped.mean((0, 2, 3), True), ours - ours.mean((0, 2, 3), True), atol=1e-3)
        assert 0.3 < float(ours.var()) < 3
        known, kept = wide.decode(latents / wide.config.scaling_factor).sample, vae.decode(ours).sample
        assert float((known - kept).abs().mean()) < 0.5 * float((known - known.mean((0, 2, 3), True)).abs().mean())
        unet, _, _ = emoji
        denoiser = PhotoDenoiser(new_photo_unet(unet, down))
        noisy, states, timestep = torch.randn(2, CHANNELS, 16, 16), torch.randn(2, 77, 128), torch.tensor([100, 600])
        four = torch.einsum("wc,bcyx->bwyx", torch.linalg.pinv(down)[:4], noisy)
        expected = torch.einsum("cw,bwyx->bcyx", down[:, :4], unet(four, timestep, states).sample)
        output, classes = denoiser(noisy, timestep, states)
        assert torch.allclose(output, expected, atol=1e-3)
        assert torch.equal(classes, denoiser.read_classes(noisy, timestep, states))
        assert torch.allclose(output, denoiser.unet(noisy, timestep, states).sample, atol=1e-5)


def test_words_that_the_emoji_model_knows_keep_their_meaning(emoji):
    _, text_encoder, tokenizer = emoji
    new = new_photo_text_encoder(text_encoder, tokenizer, tokenizer)
    ids = torch.tensor([tokenizer("a photo of a fox", padding="max_length").input_ids])
    with torch.no_grad():
        assert torch.allclose(new(ids).last_hidden_state, text_encoder(ids).last_hidden_state, atol=1e-6)


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(pool, photos, emoji, tmp_path):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(demo_checkpoint() / "vae").float().eval()
    cases = photo_cases(build_pool(photos, tmp_path / "pool", split="val"))

    def train(run, *totals):
        for total in totals:
            torch.manual_seed(0)
            denoiser = PhotoDenoiser(load_emoji(demo_checkpoint())[0])
            training = PhotoClassTraining(
                tmp_path / run, SceneComposer(pool), cases, denoiser, vae, torch.zeros(1, 77, 128)
            )
            training.loop.gate = lambda: ""
            training.loop.run(total, print)
        return [weight.detach() for weight in denoiser.parameters()]

    whole, parts = train("whole", 64), train("parts", 32, 64)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


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
