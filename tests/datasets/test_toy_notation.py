"""A notation that a test adds, in one file and one line of the table, works in every command that reads data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from segrefine.cli import main
from segrefine.cli.group import COMMANDS
from segrefine.datasets import opening
from segrefine.datasets.opening import NOTATIONS, read_pairs
from tests.datasets.benchmark_sets import write_voc
from tests.datasets.toy_notation import Toy
from tests.datasets.trial import FOX
from tests.tuning.labelled import copy_bundle, write_scenes

ONE = ("--workers", 1, "--threads", 1, "--preset", "fast")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy in the table. Workers are told the notation, and need no table."""
    monkeypatch.setattr(opening, "NOTATIONS", [Toy, *NOTATIONS])


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def write_toy(file: Path, label: str, mask: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = ("".join("01"[int(pixel)] for pixel in row) for row in mask)
    file.write_text("\n".join([label, *rows]))


def read_toy(file: Path) -> np.ndarray:
    return np.array([list(row) for row in file.read_text().splitlines()[1:]]) == "1"


def data_set(folder: Path, count: int, *, label: str | None = None) -> Path:
    """Shipped scenes, their coarse masks in `masks` and their true ones in `truth`, all in the toy notation."""
    write_scenes(folder, count, label=label)
    labels = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").unlink()
    for kind in ("masks", "truth"):
        for file in list((folder / kind).iterdir()):
            write_toy(file.with_suffix(".toy"), labels[file.stem], np.asarray(Image.open(file).convert("L")) > 127)
            file.unlink()
    return folder


def check_batch_and_eval(folder: Path) -> None:
    data, output = data_set(folder / "data", 1), folder / "out"
    values = run("batch", data, output, *ONE)
    assert (values["done"], values["masks_refined"]) == (1, 1) and values["options"]["notation"] == "toy"
    values = run("eval", output, data / "truth")
    written, true = read_toy(output / "masks/00.toy"), read_toy(data / "truth/00.toy")
    iou = (written & true).sum() / (written | true).sum()
    [(_, found)] = values["iou_of_classes"].items()
    assert values["notation"] == "toy" and found == pytest.approx(iou) and 0 < iou < 1


def check_watch(folder: Path) -> None:
    times = ("--interval", 0.05, "--settle", 0.1, "--stop-after", 0.5)
    values = run("watch", data_set(folder / "data", 1), folder / "out", *ONE, *times)
    assert values["done"] == 1 and read_toy(folder / "out/masks/00.toy").any()


def check_sweep(folder: Path) -> None:
    data = data_set(folder / "data", 1)
    values = run("sweep", data, data / "truth", folder / "out", "--vary", "mixing=0.5", *ONE)
    assert [row["failed"] for row in values["rows"]] == [0, 0] and values["before"]["count"] == 1


def check_tune(folder: Path) -> None:
    bundle = copy_bundle(folder / "bundle", effect_range=(1e6, 2e6))  # no label changes the prediction that much
    data = data_set(folder / "data", 10, label="qqq")
    values = run("tune", data, data / "truth", "--bundle", bundle, "-o", folder / "out", "--threads", 1)
    assert (len(values["fit_images"]), len(values["held_out_images"])) == (6, 4)


def check_bench(folder: Path) -> None:
    data, coarse = write_voc(folder / "voc"), folder / "coarse"
    for name in (data / "ImageSets/Segmentation/val.txt").read_text().split():
        write_toy(coarse / f"{name}.toy", "cat", FOX)
    words = ("--coarse", coarse, "--compare", "none", "--cases", 1, *ONE)
    values = run("bench", "voc", data, "-o", folder / "out", *words)
    assert values["methods"]["coarse"]["protocols"]["voc"]["iou_of_classes"]["cat"] == 1 and not values["failures"]
    assert all(read_toy(file).any() for file in (folder / "out/segrefine/masks").iterdir())


def check_train(folder: Path) -> None:
    words = ("--from", "tiny", "--steps", 1, "--batch", 2, "--held-out", 0, "--cpu", "--validation-limit", 1)
    values = run("train", data_set(folder / "data", 4), folder / "out", *words)
    assert values["steps"] == 1 and "car" in values["classes"]


CHECKS: dict[str, Callable[[Path], None]] = {
    "batch, eval": check_batch_and_eval, "watch": check_watch, "sweep": check_sweep, "tune": check_tune,
    "bench": check_bench, "train": check_train,
}  # fmt: skip
"""For each command: run it on data in the toy notation, in a folder, and check that it worked."""


@pytest.mark.parametrize("command", CHECKS)
def test_it_works_in_every_command(command: str, tmp_path: Path) -> None:
    CHECKS[command](tmp_path)


def test_no_command_is_left_out() -> None:
    context = click.Context(main)
    commands = {name: main.get_command(context, name) for name in COMMANDS}
    reading = {name for name, each in commands.items() if each and "classes" in {option.name for option in each.params}}
    assert reading - {"segment"} == set(", ".join(CHECKS).split(", "))  # the class list of `segment` is of its phrases


def test_training_reads_pairs(tmp_path: Path) -> None:
    data = data_set(tmp_path, 1)
    [(pixels, pairs)] = read_pairs(data)
    assert pixels.shape == (128, 128, 3) and len(pairs) == 1
    np.testing.assert_array_equal(pairs[0][1], read_toy(data / "masks/00.toy"))
