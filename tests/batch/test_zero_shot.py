"""A data set without masks gets label maps from the names of its classes alone."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from segrefine.assets import demo_bundle, demo_samples
from segrefine.batch.tools import Tools
from segrefine.batch.worker import Job
from segrefine.datasets.class_lists import find_classes
from segrefine.datasets.items import LabelledMask, Reading
from segrefine.engines import EngineOptions
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.files.image import load_image
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from tests.batch.runs import refine, run

NAMES = ("04-butterfly-ellipse", "02-car-erode", "05-rocket-blob8")


def images(folder):
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes((demo_samples() / "images" / f"{name}.png").read_bytes())
    classes = folder / "classes.json"
    classes.write_text(json.dumps({"3": "butterfly", "7": "car", "12": "rocket"}))
    return folder, classes


def test_label_maps_are_those_of_the_library(tmp_path):
    folder, classes = images(tmp_path / "data")
    values = refine(folder, tmp_path / "out", "--workers", 1, "--zero-shot", "--classes", classes)
    assert (values["items"], values["done"], values["failed"]) == (3, 3, 0)
    names = list(find_classes(str(classes)).names.values())
    with (
        Refiner.from_bundle(demo_bundle(), threads=1) as refiner,
        ZeroShotSegmenter.from_bundle(demo_bundle(), threads=1) as segmenter,
    ):
        image = load_image(folder / f"{NAMES[0]}.png")
        found = segmenter(image, names, settings={"edges": False}).segments
        there = [(each.phrase, each.probability) for each in found if each.mask.any()]
        wanted = {result.label: result.mask for result in refiner(image, there)}
    written = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{NAMES[0]}.png"))
    numbers = {"butterfly": 3, "car": 7, "rocket": 12}
    assert set(np.unique(written)) - {0} <= {numbers[name] for name in wanted}
    assert "butterfly" in wanted
    for name, mask in wanted.items():
        np.testing.assert_array_equal(written == numbers[name], mask)


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    folder, classes = images(tmp_path / "data")
    given = folder, tmp_path / "out", "--workers", 1, "--zero-shot", "--classes", classes
    refine(*given)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "masks").iterdir()}
    (tmp_path / "out" / "masks" / f"{NAMES[1]}.png").unlink()
    again = refine(*given, "--resume")
    assert again["resumed"] == 2
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out" / "masks").iterdir()}


def test_masks_take_no_zero_shot_and_files_are_no_folder(tmp_path):
    folder, classes = images(tmp_path / "data")
    done = run("batch", folder, tmp_path / "out", "--classes", classes)
    assert done.exit_code == 1 and "there is no folder" in done.stderr
    done = run("batch", classes, tmp_path / "out", "--zero-shot")
    assert done.exit_code == 1 and "expected a folder of images" in done.stderr


def test_a_mask_that_fills_the_image_is_kept_and_not_refined():
    pixels = load_image(demo_samples() / "images" / f"{NAMES[0]}.png")
    full = np.ones(pixels.shape[:2], np.float32)
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        tools = Tools(refiner, FullFinder(full))
        reading, made, refined = tools.make_masks(job(), None, pixels, None)
    assert [each.key for each in reading.masks] == ["sky"] and refined == []
    assert made["sky"].mask.all()


class FullFinder:
    def __init__(self, mask):
        self.mask = mask

    def find(self, image, item):
        return Reading(masks=[LabelledMask(key="sky", label="sky", mask=self.mask)])

    def close(self):
        pass


def job():
    setup = PipelineSetup(bundle=demo_bundle(), engines=EngineOptions())
    return Job(source=Path(), images=None, output=Path(), setup=setup)
