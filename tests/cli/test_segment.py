"""`segrefine segment` with a tiny label diffusion model, whose masks mean nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_bundle, demo_samples, photo_samples
from segrefine.runtime.files.output import voc_colours
from segrefine.runtime.imaging.metrics import iou


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_writes_label_map_overlay_and_maps(run, tiny_label_bundle, image, tmp_path):
    out = tmp_path / "out.png", tmp_path / "over.png", tmp_path / "maps"
    done = run(
        "segment", image, "a fox", "the red car!", "--bundle", tiny_label_bundle, "-o", out[0], "--overlay", out[1],
        "--maps", out[2], "--uncertainty", "--sheet", tmp_path / "sheet.png", "--samples", 2, "--steps", 1,
        "--guidance", 1.5, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert [entry["phrase"] for entry in values["segments"]] == ["a fox", "the red car!"]
    assert values["settings"] | {"samples": 2, "steps": 1, "guidance_scale": 1.5} == values["settings"]
    labels = Image.open(out[0])
    assert labels.mode == "P" and labels.size == (30, 20)
    np.testing.assert_array_equal(np.reshape(labels.getpalette(), (-1, 3))[:3], voc_colours(3))
    assert set(np.unique(np.asarray(labels))) <= {0, 1, 2}
    assert Image.open(out[1]).size == (30, 20)
    assert Image.open(tmp_path / "sheet.png").height > 2 * 128  # a row for every phrase
    names = {path.name for path in out[2].iterdir()}
    assert names == {
        f"{stem}.{kind}.png"
        for stem in ("01-a-fox", "02-the-red-car")
        for kind in ("mask", "probability", "uncertainty")
    }


def test_a_spread_takes_several_samples(run, tiny_label_bundle, image, tmp_path):
    given = "segment", image, "fox", "--bundle", tiny_label_bundle, "-o", tmp_path / "o.png", "--json"
    maps, sheet = ("--maps", tmp_path / "maps", "--uncertainty"), ("--sheet", tmp_path / "sheet.png")
    drawn = [json.loads(run(*given, *more).stdout)["settings"]["samples"] for more in ((), maps, sheet)]
    assert drawn == [1, 4, 4]
    single, several = (json.loads(run(*given, *sheet, "--samples", count).stdout) for count in (1, 2))
    assert single["settings"]["samples"] == 1
    assert single["segments"][0]["mean_uncertainty"] is None  # one sample says nothing of it
    assert several["segments"][0]["mean_uncertainty"] > 0
    assert np.asarray(Image.open(tmp_path / "maps" / "01-fox.uncertainty.png")).any()


def test_caption_gives_a_segment_for_every_phrase_with_its_place(run, tiny_label_bundle, image, tmp_path):
    caption = "a fox sits left of b car"
    marked = "[a fox] sits left of [b car]"
    for given in (caption, marked):
        where = "--bundle", tiny_label_bundle, "-o", tmp_path / "o.png"
        values = json.loads(run("segment", image, "--caption", given, *where, "--json").stdout)
        assert values["caption"] == caption
        assert [caption[slice(*entry["span"])] for entry in values["segments"]] == ["a fox", "b car"]


def test_refining_takes_the_masks_for_coarse_ones(run, scene, tmp_path):
    files = [tmp_path / "plain.png", tmp_path / "refined.png"]
    given = "segment", scene[0], scene[2], "--bundle", "demo-gs", "--no-edges", "--json", "-o"
    plain, refined = (
        json.loads(run(*given, file, *more).stdout) for file, more in zip(files, [[], ["--refine"]], strict=True)
    )
    assert not plain["settings"]["edges"] and not plain["refined"] and "refine" not in plain["seconds"]
    assert refined["refined"] and refined["seconds"]["refine"] > 0
    assert files[0].read_bytes() != files[1].read_bytes()


def test_same_seed_same_label_map(run, tiny_label_bundle, image, tmp_path):
    for name in ("a.png", "b.png"):
        assert run("segment", image, "fox", "--bundle", tiny_label_bundle, "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        ([], "give phrases", 2),
        (["fox", "--caption", "a fox"], "give phrases", 2),
        (["fox", "--uncertainty"], "add --maps", 2),
        (["fox", "--uncertainty", "--maps", "m", "--samples", "1"], "one sample has no spread", 2),
        (["fox", "--steps", "0"], "--steps", 2),
        (["fox", "--output", "x.jpg"], ".png", 2),
        (["fox", "--overlay", "same.png", "--output", "same.png"], "overwrite", 2),
        (["fox", "--refine-bundle", "demo"], "add --refine", 2),
        (["fox", "--refine", "--refine-bundle", "nowhere"], "nowhere", 1),
        ([""], "names something", 1),
        (["fox", " "], "names something", 1),
        (["x" * 60], "too long", 1),
        (["--caption", "of the"], "no phrase", 1),
        (["fox", "--output", "nowhere/x.png"], "no folder", 1),
    ],
)
def test_bad_input(run, tiny_label_bundle, image, arguments, message, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [] if "--bundle" in arguments else ["--bundle", tiny_label_bundle]
    done = run("segment", image, *given, *arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert "hint:" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"image.png"}


def test_a_shipped_model_warns_of_words_that_it_does_not_know(run, image, tmp_path):
    done = run("segment", image, "the small cat", "a zebra", "-o", tmp_path / "o.png", "--samples", 1, "--steps", 1)
    assert done.exit_code == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "does not know" in line]
    assert "'zebra'" in warning and "'cat'" not in warning and "horse" in warning


def test_other_commands_name_the_right_one(run, tiny_label_bundle, image, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(mask)
    done = run("refine", image, mask, "--label", "fox", "--bundle", tiny_label_bundle)
    assert done.exit_code == 1
    assert "segrefine segment" in done.stderr


def test_inspect_says_how_masks_become_latents(run, tiny_label_bundle):
    done = run("inspect", tiny_label_bundle)
    assert done.exit_code == 0
    assert "masks as latents: kind" in done.stdout


def test_maps_do_not_overwrite_what_is_read_or_written(run, tiny_label_bundle, image, tmp_path):
    (tmp_path / "maps").mkdir()
    photo = image.rename(tmp_path / "maps" / "01-fox.mask.png")
    before, given = photo.read_bytes(), ("--bundle", tiny_label_bundle, "--maps", tmp_path / "maps")
    done = run("segment", photo, "fox", *given, "-o", tmp_path / "o.png")
    assert done.exit_code == 2 and "would overwrite the image to segment" in done.stderr
    assert photo.read_bytes() == before
    done = run("segment", photo, "car", *given, "-o", tmp_path / "maps" / "01-car.mask.png")
    assert done.exit_code == 2 and "would overwrite the file of --output" in done.stderr


def test_maps_of_another_run_are_told_and_every_script_has_a_name(run, tiny_label_bundle, image, tmp_path):
    given = "--bundle", tiny_label_bundle, "-o", tmp_path / "o.png", "--maps", tmp_path / "maps"
    assert "another run" not in run("segment", image, "b\nc", *given).stderr
    done = run("segment", image, "狐", *given)
    assert "also holds maps of another run: 01-b-c.mask.png, 01-b-c.probability.png" in done.stderr
    assert (tmp_path / "maps" / "01-狐.mask.png").is_file()
    assert len([line for line in run("segment", image, "b\nc", *given).stdout.splitlines() if "b c" in line]) == 1


def test_a_text_to_image_model_finds_phrases_zero_shot_and_refines_them(run, tmp_path):
    image = demo_samples() / "images" / "04-butterfly-ellipse.png"
    given = "segment", image, "the butterfly", "-o", tmp_path / "o.png", "--json", "--bundle", demo_bundle()
    named, by_flag = (run(*given, *more) for more in ((), ("--zero-shot",)))
    assert named.exit_code == by_flag.exit_code == 0, named.stderr + by_flag.stderr
    assert "has no label denoiser: it finds phrases zero-shot" in named.stderr
    values, again = json.loads(named.stdout), json.loads(by_flag.stdout)
    assert values["method"] == "zero-shot" and values["refined"] and values["segments"][0]["area"] > 0
    assert values["segments"] == again["segments"]
    coarse = json.loads(run(*given, "--zero-shot", "--no-refine", "--set", "threshold=1.5").stdout)
    assert not coarse["refined"] and coarse["settings"]["threshold"] == 1.5
    assert 0 < coarse["segments"][0]["area"] < values["segments"][0]["area"] + 0.2


@pytest.mark.parametrize(
    "option", [("--samples", 2), ("--sampler", "lcm"), ("--guidance", 2), ("--maps", "m", "--uncertainty")]
)
def test_zero_shot_takes_no_options_of_label_diffusion(run, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    done = run("segment", demo_samples() / "images" / "04-butterfly-ellipse.png", "fox", "--zero-shot", *option)
    assert done.exit_code == 2 and "belongs to label diffusion" in done.stderr


def test_all_classes_of_a_list_give_a_label_map_of_those_that_are_there(run, tmp_path):
    image = demo_samples() / "images" / "04-butterfly-ellipse.png"
    names = {"3": "butterfly", "7": "rocket", "200": "turtle"}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    done = run(
        "segment", image, "--classes", tmp_path / "classes.json", "--bundle", "demo", "-o", tmp_path / "o.png", "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = {entry["label"]: entry for entry in json.loads(done.stdout)["segments"]}
    assert 3 in found and found[3]["phrase"] == "butterfly" and found[3]["area"] > 0.05
    assert set(np.unique(np.asarray(Image.open(tmp_path / "o.png")))) <= {0, *found}
    assert "nothing in the image" not in done.stderr


def test_the_default_model_finds_classes_in_photographs(run, tmp_path):
    image = photo_samples() / "images" / "sheep.jpg"
    (tmp_path / "classes.json").write_text(json.dumps(["background", "sheep", "person"]))
    given = "segment", image, "--classes", tmp_path / "classes.json", "--zero-shot", "-o", tmp_path / "o.png", "--json"
    done = run(*given)
    assert done.exit_code == 0, done.stderr
    assert [entry["phrase"] for entry in json.loads(done.stdout)["segments"]] == ["sheep"]
    truth = np.asarray(Image.open(photo_samples() / "truth" / "sheep.png")) > 0
    assert iou(np.asarray(Image.open(tmp_path / "o.png")) == 1, truth) > 0.5


@pytest.mark.parametrize("more", [[], ["--no-refine"]])
@pytest.mark.parametrize("nothing", [0, 255])
def test_a_list_of_absent_classes_gives_an_empty_label_map(run, tmp_path, nothing, more):
    image = demo_samples() / "images" / "04-butterfly-ellipse.png"
    (tmp_path / "classes.json").write_text(json.dumps({"1": "rocket"}))
    classes = tmp_path / "classes.json" if nothing == 0 else "cityscapes"
    threshold = "--set", "presence=1000"
    files = {name: tmp_path / f"{name}.png" for name in ("output", "overlay", "cutout", "sheet")}
    outputs = [word for name, file in files.items() for word in (f"--{name}", file)]
    maps = "--maps", tmp_path / "maps"
    done = run("segment", image, "--classes", classes, "--zero-shot", *threshold, *more, *outputs, *maps, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["segments"] == []
    labels = np.asarray(Image.open(files["output"]))
    assert labels.shape == Image.open(image).size[::-1] and set(np.unique(labels)) == {nothing}
    assert not np.asarray(Image.open(files["cutout"]))[..., 3].any()
    assert all(file.is_file() for file in files.values())
    assert "classes was found in the image" in done.stderr


def test_phrases_and_classes_exclude_each_other(run, image):
    assert run("segment", image, "fox", "--classes", "voc").exit_code == 2
    done = run("segment", image, "--classes", "nonsense")
    assert done.exit_code == 1 and "there is no class list 'nonsense'" in done.stderr and "coco-object" in done.stderr
