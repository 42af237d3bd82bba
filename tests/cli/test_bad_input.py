"""Every bad input gets one error line, a hint and exit code 1, and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.cli import main
from segrefine.runtime.pipeline import Refiner
from tests.engines.tensorrt.runtime_stand_in import build, one_gpu


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle(), tmp_path / "bundle"))


@pytest.fixture
def refine_fails(fails, scene, tmp_path):
    """Runs `refine` with one thing wrong; no file is left in the output's folder."""

    def check(**wrong: object) -> str:
        image, mask, label = scene
        words = {"image": image, "mask": mask, "label": label, "output": tmp_path / "out" / "mask.png"} | wrong
        (tmp_path / "out").mkdir(exist_ok=True)
        options = [f"--{name}={value}" for name, value in words.items() if name not in ("image", "mask")]
        line = fails("refine", words["image"], words["mask"], *options)
        assert not list((tmp_path / "out").iterdir())
        return line

    return check


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_missing_image(refine_fails, tmp_path):
    assert "no such file" in refine_fails(image=tmp_path / "none.png")


def test_damaged_image(refine_fails, scene, tmp_path):
    (tmp_path / "cut.png").write_bytes(scene[0].read_bytes()[:900])
    assert "damaged" in refine_fails(image=tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "no picture" in refine_fails(image=tmp_path / "text.png")


def test_missing_mask(refine_fails, tmp_path):
    assert "no such file" in refine_fails(mask=tmp_path / "none.png")


def test_mask_of_another_size(refine_fails, tmp_path):
    mask = save(tmp_path / "small.png", np.eye(64, dtype=np.uint8) * 255)
    assert "128×128" in refine_fails(mask=mask)


@pytest.mark.parametrize(("value", "word"), [(0, "empty"), (255, "whole image")])
def test_constant_mask(refine_fails, tmp_path, value, word):
    assert word in refine_fails(mask=save(tmp_path / "flat.png", np.full((128, 128), value, np.uint8)))


def test_one_pixel(refine_fails, tmp_path):
    image = save(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    mask = save(tmp_path / "dot-mask.png", np.full((1, 1), 255, np.uint8))
    assert "whole image" in refine_fails(image=image, mask=mask)


@pytest.mark.parametrize("label", ["", "   "])
def test_empty_label(refine_fails, label):
    assert "names something" in refine_fails(label=label)


def test_label_longer_than_the_prompt(refine_fails):
    assert "too long" in refine_fails(label="fox " * 100)


def test_unknown_backend(refine_fails):
    assert "tensorflow" in refine_fails(backend="tensorflow")


def test_output_folder_that_does_not_exist(fails, scene, tmp_path):
    image, mask, label = scene
    assert "no folder" in fails("refine", image, mask, "--label", label, "-o", tmp_path / "none" / "mask.png")


def test_output_folder_that_cannot_be_written(fails, scene):
    image, mask, label = scene
    assert "cannot write" in fails("refine", image, mask, "--label", label, "-o", "/proc/mask.png")


def test_no_bundle(refine_fails, tmp_path):
    assert "there is no such folder" in refine_fails(bundle=tmp_path / "none")
    assert "not a bundle" in refine_fails(bundle=tmp_path)


def test_bundle_with_a_file_missing(refine_fails, bundle):
    (bundle / "unet" / "model.onnx_data").unlink()
    assert "model.onnx_data: it is missing" in refine_fails(bundle=bundle)


def test_bundle_with_a_file_cut_short(refine_fails, bundle):
    graph = bundle / "vae_encoder" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert "bytes" in refine_fails(bundle=bundle)


def test_bundle_with_an_altered_file(refine_fails, bundle, fails):
    graph = bundle / "alignment" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert "altered" in refine_fails(bundle=bundle)
    assert "altered" in fails("inspect", bundle)
    assert "altered" in fails("build-engine", bundle)


def test_bundle_whose_path_leaves_it(refine_fails, bundle):
    manifest = json.loads((bundle / "segrefine.json").read_text())
    manifest["graphs"]["unet"] = "../../unet/model.onnx"
    (bundle / "segrefine.json").write_text(json.dumps(manifest))
    assert "leaves the bundle" in refine_fails(bundle=bundle)


def test_bundle_with_a_link_to_another_file(refine_fails, bundle, tmp_path):
    graph = bundle / "unet" / "model.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with (tmp_path / "elsewhere.onnx").open("r+b") as file:
        file.write(b"another")
    assert "was altered" in refine_fails(bundle=bundle)


def test_model_that_is_not_there(fails, tmp_path):
    assert "no model" in fails("export", tmp_path / "none", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_export_over_something_else(fails, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "not a bundle" in fails("export", "demo", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_damaged_image_on_stdin(fails, scene, tmp_path):
    output = tmp_path / "mask.png"
    assert "stdin: the file is no picture" in fails(
        "refine", "-", scene[1], "--label", "fox", "-o", output, input=b"no picture"
    )
    assert not output.exists()


def test_usage_errors_exit_with_two(run, scene):
    assert run("refine", scene[0]).exit_code == 2
    assert run("polish").exit_code == 2
    assert run("refine", scene[0], scene[1], "--label", "fox", "-o", "-", "--json").exit_code == 2


@pytest.fixture
def refuses(run, scene, tmp_path, monkeypatch):
    """Runs `refine` on copies named photo.png and coarse.png; a usage error, and nothing changed. Returns its line."""

    def check(*words: object, **extra: object) -> str:
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        result = run("refine", *words, "--label", "car", **extra)
        assert result.exit_code == 2, result.output
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
        return result.stderr.splitlines()[-2]

    for source, name in zip(scene[:2], ("photo.png", "coarse.png"), strict=True):
        shutil.copyfile(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return check


@pytest.mark.parametrize("option", ["-o", "--overlay", "--trace", "--probability"])
def test_output_over_an_input(refuses, tmp_path, option):
    (tmp_path / "link").symlink_to(tmp_path)
    for path in ("photo.png", "./photo.png", tmp_path / "photo.png", "link/photo.png"):
        assert "would overwrite the image" in refuses("photo.png", "coarse.png", option, path)
    assert "would overwrite the mask" in refuses("photo.png", "coarse.png", option, "link/coarse.png")


def test_default_output_over_an_input(refuses, tmp_path):
    (tmp_path / "photo.png").rename(tmp_path / "refined.png")
    assert "--output refined.png would overwrite the image" in refuses("refined.png", "coarse.png")


def test_output_over_the_mask_of_an_image_on_stdin(refuses, scene):
    line = refuses("-", "coarse.png", "-o", "coarse.png", input=scene[0].read_bytes())
    assert "would overwrite the mask" in line


def test_two_outputs_in_one_file(refuses):
    line = refuses("photo.png", "coarse.png", "-o", "z.png", "--overlay", "./z.png")
    assert "--overlay z.png would overwrite the file of --output" in line
    assert "--trace" in refuses("photo.png", "coarse.png", "--overlay", "refined2.png", "--trace", "refined2.png")


@pytest.mark.parametrize("image", ["-", "photo.png"])
def test_mask_is_never_stdin(refuses, scene, image):
    assert "only IMAGE can be -" in refuses(image, "-", "-o", "z.png", input=scene[1].read_bytes())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--compute-capability", "8", "expected major and minor version, such as 8.9"),
        ("--max-shapes", "batch=0", "'batch=0': expected sizes of 1 or more"),
        ("--max-shapes", "batch:4", "cannot read the shapes: expected a size by its symbol, got 'batch:4'"),
        ("--opt-shapes", "batch=" + 5000 * "9", "cannot read the shapes"),
        ("--workspace", "99999999999999999", "is not in the range"),
    ],
)
def test_options_of_build_engine_that_cannot_be_read(run, option, value, message):
    result = run("build-engine", "demo", "--backend", "tensorrt-rtx", option, value)
    assert result.exit_code == 2
    assert message in result.stderr and "build-engine --help" in result.stderr


def test_damaged_engine_beside_a_whole_one_is_a_warning(run, scene, bundle, tmp_path):
    with one_gpu():
        for component in Refiner.components(Bundle.open(bundle)):
            build(Bundle.open(bundle), component, "tensorrt", most=16)
        build(Bundle.open(bundle), "unet", "tensorrt", most=8).write_bytes(b"")
        words = "--label", scene[2], "--bundle", bundle, "-o", tmp_path / "mask.png"
        result = run("refine", scene[0], scene[1], *words, "--backend", "tensorrt")
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("warning: an engine of unet is left out")]
    assert "is damaged" in line and f"build it again: segrefine build-engine {bundle}" in line


def test_locating_where_no_engine_can_be_built(fails):
    line = fails("parity", "demo", "--reference", "demo", "--backend", "tensorrt", "--locate")
    assert "the builder of tensorrt is not installed" in line


PATHS = [
    (name, parameter)
    for name in main.list_commands(click.Context(main))
    for parameter in main.get_command(click.Context(main), name).params
    if isinstance(parameter.type, click.Path)
]


@pytest.mark.parametrize(("name", "parameter"), PATHS, ids=[f"{name} {parameter.name}" for name, parameter in PATHS])
def test_an_empty_path_is_not_the_current_folder(name, parameter):
    context = click.Context(main.get_command(click.Context(main), name))
    with pytest.raises(click.UsageError, match="expected a path, got an empty text"):
        parameter.type_cast_value(context, "" if parameter.nargs == 1 and not parameter.multiple else [""])
