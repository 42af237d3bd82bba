"""What a run notes of its options, and how it refuses to go on with others."""

from __future__ import annotations

import json
import shutil

import pytest

from segrefine.assets import demo_bundle
from segrefine.batch.options import OPTIONS
from tests.batch.runs import refine, results, run


@pytest.fixture
def begun(scenes, tmp_path):
    """A run of which one image is missing again."""
    output = tmp_path / "out"
    refine(scenes, output, "--workers", 1)
    next((output / "masks").iterdir()).unlink()
    return output


def test_other_options_are_refused_and_the_same_are_not(scenes, begun, tmp_path):
    noted, before = (begun / OPTIONS).read_text(), results(begun)
    cases: list[tuple[list, str]] = [
        (["--seed", 1], "seed was 0 and is 1 now"),
        (["--no-guard"], "guard was on and is off now"),
        (["--no-crop", "--resolution", 128], "resolution was the default and is 128 now; crop was on and is off now"),
        (["--backend", "openvino"], "backend was onnxruntime and is openvino now"),
    ]
    for words, message in cases:
        result = run("batch", scenes, begun, "--resume", *words)
        assert result.exit_code == 1 and message in result.stderr, result.stderr
        assert f"take the options that {begun / OPTIONS} lists, or choose another folder" in result.stderr
    assert results(begun) == before and (begun / OPTIONS).read_text() == noted
    bundle = tmp_path / "elsewhere"
    shutil.copytree(demo_bundle(), bundle)
    values = refine(scenes, begun, "--resume", "--workers", 2, "--threads", 2, "--bundle", bundle)
    assert (values["done"], values["resumed"]) == (3, 2) and before.items() <= results(begun).items()
    assert values["options"] == json.loads(noted)["options"]
    assert json.loads((begun / "manifest.json").read_text())["options"] == values["options"]


def test_another_model_is_refused(scenes, begun, tmp_path):
    bundle = tmp_path / "other"
    shutil.copytree(demo_bundle(), bundle)
    manifest = json.loads((bundle / "segrefine.json").read_text())
    manifest["settings"]["mixing"] = 0.5
    (bundle / "segrefine.json").write_text(json.dumps(manifest))
    result = run("batch", scenes, begun, "--resume", "--bundle", bundle)
    noted = json.loads((begun / OPTIONS).read_text())["options"]["bundle"]
    assert result.exit_code == 1 and f"bundle was {noted[:12]} and is " in result.stderr


def test_a_data_set_that_was_moved(scenes, begun):
    moved = scenes.with_name("moved")
    scenes.rename(moved)
    result = run("batch", moved, begun, "--resume")
    assert result.exit_code == 1 and f"source was {scenes} and is {moved} now" in result.stderr
    assert f'was the data set moved? Then correct "source" in {begun / OPTIONS}' in result.stderr
    (begun / OPTIONS).write_text((begun / OPTIONS).read_text().replace(str(scenes), str(moved)))
    assert refine(moved, begun, "--resume")["resumed"] == 2
    scenes.symlink_to(moved)  # the same place by another name
    assert refine(scenes, begun, "--resume")["resumed"] == 3


@pytest.mark.parametrize(("content", "message"), [(None, "no options.json"), ("{", "does not tell the options")])
def test_results_of_which_nobody_knows_how_they_were_made(scenes, begun, content, message):
    (begun / OPTIONS).unlink()
    if content:
        (begun / OPTIONS).write_text(content)
    result = run("batch", scenes, begun, "--resume")
    assert result.exit_code == 1 and message in result.stderr and "choose a new folder" in result.stderr
