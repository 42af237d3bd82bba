"""`--preset`, `--settings`, `--set` and `--no-edges`: the same on every command that computes masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from segrefine import Refiner
from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.presets import PRESETS
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.settings import G4SegSettings


def test_a_preset_then_a_file_then_single_values(run, scene, tmp_path):
    image, mask, label = scene
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"noises": 2, "mixing": 0.7}))
    output = tmp_path / "mask.png"
    result = run(
        "refine", image, mask, "--label", label, "-o", output, "--json", "--preset", "fast", "--settings", file,
        "--bundle", "demo",
        "--set", "mixing=0.6", "--set", "text_timesteps=300,500", "--no-edges",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    changes = {"noises": 2, "mixing": 0.6, "text_timesteps": [300, 500], "edges": False}
    bundled = G4SegSettings.from_dict(Bundle.open(demo_bundle()).manifest.settings)
    wanted = bundled.with_changes({**PRESETS["g4seg"]["fast"], **changes})
    assert json.loads(result.stdout)["settings"] == json.loads(json.dumps(wanted.to_dict()))
    pixels = load_image(image)
    with Refiner.from_bundle(demo_bundle(), settings=wanted) as refiner:
        ours = refiner(pixels, load_mask(mask, pixels.shape[:2]), label)
    np.testing.assert_array_equal(np.asarray(Image.open(output)) > 0, ours.mask)


@pytest.mark.parametrize("command", ["refine", "segment", "batch", "sweep"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "slow"], "has no preset 'slow'"),
        (["--set", "strenght=3"], "has no setting 'strenght'"),
        (["--set", "template=a"], "template"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(fails, run, scene, tmp_path, command, words, message):
    image, mask, label = scene
    given = {
        "refine": [image, mask, "--label", label, "-o", tmp_path / "mask.png"],
        "segment": [image, "the fox", "-o", tmp_path / "labels.png"],
        "batch": [image.parents[1], tmp_path / "out"],
        "sweep": [image.parents[1], mask.parent, tmp_path / "out"],
    }[command]
    if words == ["--set", "template=a"]:
        if command != "segment":
            return
        message = "'template' is a setting of G4Seg (refine), not of GS (segment)"
    result = run(command, *given, *words)
    assert result.exit_code == 1 and message in result.stderr, result.output
    listed = PRESETS["gs" if command == "segment" else "g4seg"] if "--preset" in words else ("edges", "guidance_scale")
    assert all(name in result.stderr for name in ("hint: there are: ", *listed))
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_read(fails, run, scene, tmp_path):
    image, mask, label = scene
    words = ["refine", image, mask, "--label", label, "-o", tmp_path / "mask.png"]
    assert "self_strength: expected a float, such as 6.0; got 'x'" in fails(*words, "--set", "self_strength=x")
    file = tmp_path / "settings.json"
    for content, message in (("[1]", "holds no JSON object"), ("{", "settings.json"), ('{"x": 1}', "no setting 'x'")):
        file.write_text(content)
        assert message in fails(*words, "--settings", file)
    for wrong in (["--set", "noises"], ["--set", "=3"], ["--settings", tmp_path / "none.json"]):
        assert run(*words, *wrong).exit_code == 2
    assert "GS (segment) has no preset 'paper'" in fails("segment", image, "the fox", "--preset", "paper")


def test_a_batch_notes_its_settings(run, scene, tmp_path):
    image, mask, label = scene
    data, output = tmp_path / "data", tmp_path / "out"
    for path in (image, mask):
        target = data / path.parent.name / "a.png"
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    (data / "labels.json").write_text(json.dumps({"a": label}))
    given = "batch", data, output, "--workers", 1, "--threads", 1, "--bundle", "demo"
    result = run(*given, "--preset", "fast", "--set", "noises=2", "--json")
    assert result.exit_code == 0, result.output
    noted = json.loads((output / "options.json").read_text())["options"]["settings"]
    changed = {**PRESETS["g4seg"]["fast"], "noises": 2}
    own = json.loads(json.dumps(G4SegSettings().to_dict()))
    assert noted == {name: value for name, value in changed.items() if value != own[name]}
    again = run(*given, "--resume", "--preset", "fast")
    assert again.exit_code == 1 and "settings.noises was the default and is 1 now" in again.stderr, again.stderr
    pixels = load_image(image)
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        ours = refiner(pixels, load_mask(mask, pixels.shape[:2]), label, settings=changed)
    np.testing.assert_array_equal(np.asarray(Image.open(output / "masks" / "a.png")) > 0, ours.mask)


def test_segment_takes_settings(run, tiny_label_bundle, scene, tmp_path):
    given = "segment", scene[0], "fox", "--bundle", tiny_label_bundle, "-o", tmp_path / "o.png", "--json"
    sheet = "--sheet", tmp_path / "sheet.png"
    chosen = [*given, *sheet, "--set", "samples=2", "--set", "guidance_scale=1.5", "--guidance", 2, "--no-edges"]
    settings = json.loads(run(*chosen).stdout)["settings"]
    assert (settings["samples"], settings["guidance_scale"], settings["edges"]) == (2, 2.0, False)
    assert json.loads(run(*given, *sheet, "--set", "samples=1").stdout)["settings"]["samples"] == 1
