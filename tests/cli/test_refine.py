"""`refine` on every kind of picture, and what it writes."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import DEMO_LABELS, PHOTO_LABELS, demo_bundle
from segrefine.picture_formats import list_suffixes
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask


def variants(image: Image.Image) -> dict[str, tuple[Image.Image, dict]]:
    """The same picture in other guises, with what to save it with."""
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    return {
        "palette.png": (image.quantize(64), {}),
        "alpha.png": (image.convert("RGBA"), {}),
        "grey.png": (image.convert("L"), {}),
        "16-bit.png": (Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), {}),
        "exif.jpg": (image.rotate(90, expand=True), {"exif": turned}),
    }


@pytest.mark.parametrize("name", ["palette.png", "alpha.png", "grey.png", "16-bit.png", "exif.jpg"])
def test_every_kind_of_picture_works(run, scene, tmp_path, name):
    image, mask, label = scene
    picture, options = variants(Image.open(image).convert("RGB"))[name]
    picture.save(tmp_path / name, **options)
    result = run("refine", tmp_path / name, mask, "--label", label, "-o", tmp_path / "mask.png")
    assert result.exit_code == 0, result.output
    turned = "exif.jpg is turned by 90° to the right, as its EXIF orientation says; masks are of the turned picture"
    assert result.stderr.count(turned) == (name == "exif.jpg")
    written = Image.open(tmp_path / "mask.png")
    assert written.size == (128, 128) and set(np.unique(np.asarray(written))) == {0, 255}


@pytest.mark.parametrize("size", [(300, 20), (2, 2), (37, 501)])
def test_every_size_works(run, tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(np.uint8(255) * (np.arange(size[0]) < size[0] / 2)[None].repeat(size[1], 0)).save(
        tmp_path / "m.png"
    )
    result = run("refine", tmp_path / "image.png", tmp_path / "m.png", "--label", "fox", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out.png").size == size


def test_all_outputs_and_one_json_object(run, scene, tmp_path):
    image, mask, label = scene
    files = {name: tmp_path / f"{name}.png" for name in ("output", "probability", "overlay", "trace")}
    options = [f"--{name}={path}" for name, path in files.items()]
    result = run("refine", image, mask, "--label", label, *options, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["label"] == label and summary["model"]["demo"] and 0 < summary["iou_with_coarse"] <= 1
    sizes = {name: Image.open(path).size for name, path in files.items()}
    assert sizes["output"] == sizes["probability"] == sizes["overlay"] == (128, 128)
    assert sizes["trace"][0] > 500
    assert np.asarray(Image.open(files["probability"])).dtype == np.uint16


def test_stdin_and_stdout(run, scene):
    image, mask, label = scene
    result = run("refine", "-", mask, "--label", label, "-o", "-", input=image.read_bytes())
    assert result.exit_code == 0, result.output
    assert Image.open(io.BytesIO(result.stdout_bytes)).size == (128, 128)


def test_the_same_seed_gives_the_same_mask(run, scene, tmp_path):
    image, mask, label = scene
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("refine", image, mask, "--label", label, f"--seed={seed}", "--bundle", "demo",
            "-o", tmp_path / f"{name}.png", "--probability", tmp_path / f"{name}.npy")  # fmt: skip
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0


def test_samples_can_be_copied(run, tmp_path):
    for kind, count, ending in (("photographs", 8, "jpg"), ("scenes", 12, "png")):
        folder = tmp_path / kind
        assert run("samples", folder, "--copies", 3, "--kind", kind).exit_code == 0
        labels = json.loads((folder / "labels.json").read_text())
        assert len(labels) == 3 * count
        for part, suffix in (("images", ending), ("masks", "png"), ("truth", "png")):
            assert {path.name for path in (folder / part).iterdir()} == {f"{name}.{suffix}" for name in labels}
        assert (folder / "ATTRIBUTION.md").exists() == (kind == "photographs")


def test_samples_are_photographs_that_the_default_model_knows(run, tmp_path):
    assert run("samples", tmp_path / "mine").exit_code == 0
    labels = json.loads((tmp_path / "mine/labels.json").read_text())
    image, mask = tmp_path / "mine/images/cow.jpg", tmp_path / "mine/masks/cow.png"
    result = run("refine", image, mask, "--label", labels["cow"], "-o", tmp_path / "cow.png", "--json")
    assert warnings(result) == [] and json.loads(result.stdout)["evidence_worth"] > 0


def test_inspect_lists_components(run):
    result = run("inspect", "demo", "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["components"]) >= {"unet", "unet_features", "alignment"}
    assert Path(json.loads(result.stdout)["bundle"]) == demo_bundle()


def test_help_names_every_command(run):
    result = run("--help")
    for name in ("refine", "demo", "export", "build-engine", "inspect", "parity", "samples"):
        assert name in result.stdout
        assert run(name, "--help").exit_code == 0


def warnings(result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if line.startswith("warning: ")]


def test_demo_labels_are_what_the_demo_model_was_trained_on():
    assert tuple(pytest.importorskip("training.demo.sprites").CLASSES) == DEMO_LABELS


@pytest.mark.parametrize(
    ("model", "words", "name", "known"),
    [([], [], "photo", PHOTO_LABELS), (["--bundle", "demo"], [" Car "], "demo", DEMO_LABELS)],
    ids=["default", "named"],
)
def test_word_that_a_shipped_model_does_not_know(run, scene, tmp_path, model, words, name, known):
    image, mask, _ = scene
    given = ["refine", image, mask, "-o", tmp_path / "mask.png", *model]
    result = run(*given, "--label", "zebra", "--json")
    told = f"warning: {name} does not know 'zebra'; it knows {', '.join(known)}; --bundle chooses another model"
    assert told in warnings(result)
    assert json.loads(result.stdout)["model"]["demo"]
    assert all(warnings(run(*given, "--label", word)) == [] for word in words)


def test_other_models_may_know_any_word(run, scene, tmp_path):
    image, mask, _ = scene
    bundle = shutil.copytree(demo_bundle(), tmp_path / "bundle")
    result = run("refine", image, mask, "--label", "zebra", "-o", tmp_path / "mask.png", "--bundle", bundle)
    assert warnings(result) == []


def test_empty_result_is_told(run, scene, tmp_path):
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "flat.png")
    speck = np.zeros((64, 64), np.uint8)
    speck[:4, :4] = 255
    Image.fromarray(speck).save(tmp_path / "speck.png")
    words = ["--label", "fox", "-o", tmp_path / "mask.png", "--json", "--bundle", "demo"]
    trusting = ["--no-guard", "--set", "worth_range="]  # else the mask stays what it was: the model sees no fox here
    [line] = warnings(result := run("refine", tmp_path / "flat.png", tmp_path / "speck.png", *words, *trusting))
    assert "the refined mask is empty" in line
    assert json.loads(result.stdout)["empty"] is True
    assert not np.asarray(Image.open(tmp_path / "mask.png")).any()
    result = run("refine", scene[0], scene[1], "--label", scene[2], *words[2:])
    assert json.loads(result.stdout)["empty"] is False and warnings(result) == []


def box_of(mask: Path) -> str:
    rows, columns = np.nonzero(np.asarray(Image.open(mask)))
    return f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"


def test_a_box_and_points_in_place_of_a_mask(run, scene, tmp_path):
    image, mask, label = scene
    truth = np.asarray(Image.open(mask.parents[1] / "truth" / mask.name)) > 0
    words = ["refine", image, "--label", label, "-o", tmp_path / "mask.png", "--json"]
    row, column = np.argwhere(truth)[truth.sum() // 2]
    box = box_of(mask.parents[1] / "truth" / mask.name)
    result = run(*words, "--box", box, f"--point={column},{row}", "--point=1,1,0")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["label"] == label
    written = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert (written & truth).sum() / (written | truth).sum() > 0.7 and written[row, column] and not written[1, 1]


def test_strokes_in_place_of_a_mask(run, scene, tmp_path):
    image, mask, label = scene
    truth = np.asarray(Image.open(mask.parents[1] / "truth" / mask.name)) > 0
    strokes = np.full(truth.shape, 128, np.uint8)
    row = np.argwhere(truth)[truth.sum() // 2][0]
    strokes[row, truth[row]], strokes[1] = 255, 0
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    words = ["--label", label, "--scribble", tmp_path / "strokes.png", "-o", tmp_path / "mask.png"]
    result = run("refine", image, *words)
    assert result.exit_code == 0, result.output
    written = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert written[row, truth[row]].all() and not written[1].any()


def test_marks_that_do_not_serve(run, scene, fails, tmp_path):
    image, mask, label = scene
    out = ["--label", label, "-o", tmp_path / "mask.png"]
    assert "lies outside of the image" in fails("refine", image, *out, "--box=500,500,600,600")
    assert "nothing marks the object" in fails("refine", image, *out, "--point=5,5,0")
    assert "no such file" in fails("refine", image, *out, "--scribble", tmp_path / "none.png")
    for words in ([], [mask, "--box=1,2,30,40"], ["--box=1,2,3"], ["--point=1"], ["--scribble=-"]):
        result = run("refine", image, *words, *out)
        assert result.exit_code == 2 and "error: " in result.stderr, result.output
    assert not (tmp_path / "mask.png").exists()


def test_the_guard_says_whether_it_trusts_the_mask(run, scene, tmp_path):
    image, mask, label = scene
    words = ["--label", label, "--json", "-o", tmp_path / "mask.png", "--bundle", "demo"]
    right, wrong = (run("refine", image, mask, *words[:1], name, *words[2:]) for name in (label, "guitar"))
    assert right.exit_code == wrong.exit_code == 0, right.output
    trusted, other = (json.loads(result.stdout) for result in (right, wrong))
    assert all(0 < each["confidence"] < 1 for each in (trusted, other))
    assert ("does not trust" in wrong.stderr) == other["kept_coarse"]
    assert 0 <= trusted["kept_share"] < other["kept_share"] <= 1  # the wrong label speaks for less of what changed
    assert other["kept_coarse"] == (other["kept_share"] == 1)
    told = run("refine", image, mask, *words[:2], *words[3:]).stdout
    assert f"confidence {trusted['confidence']:.3f}, at least {trusted['confidence_threshold']:.3f} is needed" in told
    assert f"; {trusted['kept_share']:.0%} of the change undone" in told
    loose = json.loads(run("refine", image, mask, *words, "--no-guard").stdout)
    assert loose["confidence"] is None and loose["kept_share"] == 0 and not loose["kept_coarse"]


def test_a_small_object_is_refined_in_a_crop(run, scene, tmp_path):
    image, mask, label = scene
    for path, colour in ((image, (90, 120, 90)), (mask, 0)):
        with Image.open(path) as picture:
            large = Image.new(picture.mode, (640, 480), colour)
            large.paste(picture.resize((64, 64), 0), (300, 200))
            large.save(tmp_path / f"{path.parent.name}.png")
    words = ("refine", tmp_path / "images.png", tmp_path / "masks.png", "--label", label, "-o", tmp_path / "out.png")
    values = json.loads(run(*words, "--json", "--trace", tmp_path / "trace.png").stdout)
    left, top, right, bottom = values["crop"]
    assert 250 < left < right < 420 and 150 < top < bottom < 320
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (480, 640) and values["confidence"] is not None
    assert "a small object" in run(*words).stdout
    assert json.loads(run(*words, "--json", "--no-crop").stdout)["crop"] is None


@pytest.mark.parametrize("suffix", list_suffixes())
def test_masks_are_written_in_every_format(run, scene, tmp_path, suffix):
    image, mask, label = scene
    written = tmp_path / f"mask{suffix}"
    result = run("refine", image, mask, "--label", label, "--preset", "fast", "-o", written,
                 "--cutout", tmp_path / "cut.webp", "--probability", tmp_path / "soft.tif")  # fmt: skip
    assert result.exit_code == 0, result.output
    soft = load_mask(tmp_path / "soft.tif", (128, 128))
    np.testing.assert_array_equal(load_mask(written, (128, 128)), soft > 0.5)
    cut = np.asarray(Image.open(tmp_path / "cut.webp"))
    np.testing.assert_allclose(cut[..., 3] / 255, soft, atol=0.6 / 255)
    seen = cut[..., 3] > 0
    np.testing.assert_array_equal(cut[seen, :3], load_image(image)[seen])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "mask.jpg"], "expected a name that ends in .png or .tif or .tiff or .webp or .bmp"),
        (["--cutout", "cut.bmp"], "expected a name that ends in .png or .tif or .tiff or .webp"),
        (["--probability", "soft.webp"], "expected a name that ends in .png or .tif or .tiff or .npy"),
        (["--label", "tree", "MASK", "-o", "mask.webp"], "--output is a label map here: expected a name that ends in"),
        (["--max-megapixels", "179"], "179"),
    ],
)  # fmt: skip
def test_a_format_that_cannot_hold_the_result_is_refused_at_once(run, scene, tmp_path, monkeypatch, words, told):
    image, mask, label = scene
    monkeypatch.chdir(tmp_path)
    words = [mask if word == "MASK" else word for word in words]
    result = run("refine", image, mask, "--label", label, *words)
    assert result.exit_code == 2 and told in result.stderr, result.stderr
    assert not list(tmp_path.iterdir())


def test_the_size_of_the_image_is_limited_as_the_option_says(run, fails, scene, tmp_path):
    image, mask, label = scene
    line = fails("refine", image, mask, "--label", label, "--max-megapixels", "0.01", "-o", tmp_path / "mask.png")
    assert "at most 0.01 megapixels, got 128×128" in line
