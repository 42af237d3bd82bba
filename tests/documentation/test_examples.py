"""Every command and every block of Python in the documents runs, but for those that `NOT_RUN` lists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.serve.process import Service, running
from documentation.examples import NOT_RUN, Example, examples
from documentation.prose import ROOT, documents
from segrefine import load_image, load_mask
from segrefine.assets import (
    demo_bundle,
    demo_checkpoint,
    demo_gs_bundle,
    demo_gs_checkpoint,
    demo_samples,
    photo_samples,
)
from segrefine.cli import main
from segrefine.runtime.files.rle import encode_rle

ADDRESS = "127.0.0.1:8000"
SIZE = (200, 170)
"""Width and height of the reader's photograph: the boxes and points of the documents lie in it."""
SCENES = ("02-car-erode", "07-crown-spill")
OWN_TEST = {
    "python.md": "test_the_page_on_python_runs_from_its_top_to_its_end",
    "kserve.md": "tests/serve/test_kserve.py",
    "libraries.md": "tests/integrations/test_pages.py",
}
PAGES = [page for page in documents() if any(each.reason is None for each in examples(page))]


def test_marks_are_few_and_each_is_needed():
    every = [each for page in documents() for each in examples(page)]
    for mark in NOT_RUN:
        assert any(re.search(mark, each.text) for each in every if each.kind == "console"), f"{mark} marks nothing"
    ours = [each for each in every if each.text.startswith("segrefine ")]
    marked = [each for each in ours if each.reason]
    assert len(marked) < len(ours) / 2, [each.text for each in marked]
    assert all(each.reason is None for each in every if each.kind == "python")


def test_comments_are_cut_off_and_quotes_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```console\n$ segrefine segment a.png "the #1 car" -o b.png   # a comment\n$ ls\nout\n```\n')
    assert [each.text for each in examples(page)] == ['segrefine segment a.png "the #1 car" -o b.png', "ls"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), "demo", "demo-gs") as started:
        yield started


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that the documents take as given; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    photo = Image.open(photo_samples() / "images/sheep.jpg").convert("RGB").resize(SIZE)
    coarse = np.asarray(Image.open(photo_samples() / "masks/sheep.png").convert("L").resize(SIZE)) > 127
    photo.save("photo.png")
    photo.save("photo.jpg")
    left = np.arange(SIZE[0]) < SIZE[0] // 2
    for name, mask in {"coarse": coarse, "fox": coarse & left, "tree": coarse & ~left}.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(f"{name}.png")
    Image.fromarray(coarse.astype(np.uint8) * 255).save("coarse.gif")
    strokes = np.full((SIZE[1], SIZE[0]), 128, np.uint8)
    strokes[70:80, 80:120] = 255
    strokes[2:5] = 0
    Image.fromarray(strokes).save("strokes.png")
    Path("my-model").symlink_to(demo_bundle())
    Path("my-gs").symlink_to(demo_gs_bundle())
    Path("path/to").mkdir(parents=True)
    for name in ("stable-diffusion", "sd21", "sd-2.1-base"):
        Path("path/to", name).symlink_to(demo_checkpoint())
    Path("path/to/label-diffusion").symlink_to(demo_gs_checkpoint())
    for folder in ("my-data", "data", "mine"):
        write_data_set(Path(folder))
    shutil.copytree("my-data/truth", "truth")
    shutil.copytree("my-data/masks", "coarse")
    shutil.copytree("my-data/images", "photos")
    write_annotations(Path("annotations.json"))
    return tmp_path


def write_outputs(page: Path) -> None:
    """What a page takes as made before, and does not make itself: bundles, and the results of a batch."""
    text = page.read_text()
    for folder, source, maker in (
        ("my-bundle", demo_bundle(), "export"),
        ("bundle", demo_bundle(), "export"),
        ("refined", Path("my-data"), "batch"),
    ):
        if not re.search(rf"^\$ segrefine {maker} \S+ {folder}\b", text, re.MULTILINE):
            shutil.copytree(source, folder)


def write_data_set(folder: Path) -> None:
    """Two scenes with coarse masks, true masks and labels."""
    for kind in ("images", "masks", "truth"):
        (folder / kind).mkdir(parents=True)
        for name in SCENES:
            shutil.copyfile(demo_samples() / kind / f"{name}.png", folder / kind / f"{name}.png")
    labels = json.loads((demo_samples() / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps({name: labels[name] for name in SCENES}))


def write_annotations(path: Path) -> None:
    """The masks of the data set as a COCO JSON."""
    labels = json.loads(Path("my-data/labels.json").read_text())
    sizes = {name: Image.open(f"my-data/masks/{name}.png").size for name in SCENES}
    images = [
        {"id": i, "file_name": f"{name}.png", "width": sizes[name][0], "height": sizes[name][1]}
        for i, name in enumerate(SCENES)
    ]
    masks = [load_mask(f"my-data/masks/{name}.png", sizes[name][::-1]) > 0.5 for name in SCENES]
    annotations = [
        {"id": i, "image_id": i, "category_id": i, "iscrowd": 0, "area": int(mask.sum()), "bbox": [0, 0, 1, 1],
         "segmentation": encode_rle(mask)}
        for i, mask in enumerate(masks)
    ]  # fmt: skip
    categories = [{"id": i, "name": labels[name]} for i, name in enumerate(SCENES)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def run_command(text: str, address: str) -> None:
    """Run a command of ours in this process, any other by its program."""
    words = shlex.split(text.replace(ADDRESS, address))
    if words[0] == "segrefine":
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 0, (text, result.output, result.stderr)
    elif words[0] == "curl":
        answer = subprocess.run([*words, "--fail-with-body", "--silent"], capture_output=True, check=False)
        assert answer.returncode == 0, (text, answer.stdout[:500])
    else:
        raise AssertionError(f"no test knows how to run {text!r}: mark it in NOT_RUN")


def run_python(example: Example, names: dict[str, Any], address: str) -> None:
    exec(compile(example.text.replace(ADDRESS, address), str(example.page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_example_runs(page: Path, reader: Path, request: pytest.FixtureRequest) -> None:
    if page.name in OWN_TEST:
        pytest.skip(f"{OWN_TEST[page.name]} runs it")
    address = request.getfixturevalue("service").url.removeprefix("http://") if ADDRESS in page.read_text() else ADDRESS
    size = SIZE[::-1]
    names: dict[str, Any] = {"image": load_image("photo.png")}
    names |= {f"{name}_mask": load_mask(f"{name}.png", size) for name in ("coarse", "fox", "tree")}
    write_outputs(page)
    for example in dict.fromkeys(examples(page)):  # a command that is shown twice is run once
        if example.kind == "python":
            run_python(example, names, address)
        elif example.reason is None:
            run_command(example.text, address)
