"""A folder that is watched: every image once, whole, whatever happens in between."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.batch.journal import JOURNAL, read_journal
from segrefine.batch.run import Pool
from tests.batch.runs import SETTINGS, first_child, results, run

QUICK = ["--preset", "fast", "--set", "noises=1", "--no-guard", "--interval", "0.05", "--settle", "0.2", *SETTINGS]


def start(source: Path, output: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "segrefine.cli", "watch", str(source), str(output), "--json", *QUICK, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[dict, str]:
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode in (0, 1), stderr
    return json.loads(stdout), stderr


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in five minutes"
        time.sleep(0.02)


@pytest.fixture
def inbox(scenes: Path, tmp_path: Path) -> tuple[Path, Callable[[int], None]]:
    """An empty folder to watch, and what drops the image and the mask of a number into it."""
    folder = tmp_path / "inbox"
    image, mask = (next(iter(sorted((scenes / kind).iterdir()))).read_bytes() for kind in ("images", "masks"))
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)

    def drop(number: int) -> None:
        (folder / "images" / f"{number:03d}.png").write_bytes(image)
        (folder / "masks" / f"{number:03d}.png").write_bytes(mask)

    return folder, drop


def kill_and_watch_again(inbox: tuple[Path, Callable[[int], None]], output: Path, count: int) -> None:
    """Drop files while a watch runs, kill it in the middle, start another one, and check that each was done once."""
    folder, drop = inbox
    first = start(folder, output, "--label", "banana", "--cutout")
    dropping = threading.Thread(target=lambda: [(drop(number), time.sleep(0.01)) for number in range(count)])
    dropping.start()
    wait_for(lambda: len(results(output)) >= min(count // 4, 20))
    worker = first_child(first)
    first.kill()
    first.communicate()
    wait_for(lambda: not Path(f"/proc/{worker}").exists())
    dropping.join()
    before = results(output)
    assert 0 < len(before) < count
    values, _ = finish(start(folder, output, "--label", "banana", "--cutout", "--stop-after", "1"))
    after = results(output)
    assert (values["done"], values["failed"], values["waiting"]) == (count, 0, [])
    assert before.items() <= after.items(), "a result was written again"
    assert sorted(after) == [f"{number:03d}.png" for number in range(count)]
    written = {np.asarray(Image.open(output / "masks" / name)).tobytes() for name in after}
    assert len(written) == 1, "equal images have different masks: one is half-written"
    cutouts = {Image.open(path).tobytes() for path in (output / "cutouts").iterdir()}
    assert len(cutouts) == 1 and len(list((output / "cutouts").iterdir())) == count
    assert not list(output.rglob("*.partial"))
    told = Counter(json.loads(line)["name"] for line in (output / JOURNAL).read_text().splitlines())
    assert set(told.values()) == {1} and len(told) == count


def test_each_image_is_done_once_though_the_watch_is_killed(inbox, tmp_path):
    kill_and_watch_again(inbox, tmp_path / "out", 16)


@pytest.mark.slow
def test_each_of_two_hundred_images_is_done_once_though_the_watch_is_killed(inbox, tmp_path):
    kill_and_watch_again(inbox, tmp_path / "out", 200)


def test_an_image_that_is_still_being_copied_is_waited_for(inbox, tmp_path):
    folder, drop = inbox
    drop(0)
    whole = (folder / "images/000.png").read_bytes()
    shutil.copyfile(folder / "masks/000.png", folder / "masks/slow.png")
    process = start(folder, tmp_path / "out", "--label", "banana", "--stop-after", "2")
    with (folder / "images/slow.png").open("wb", buffering=0) as file:
        pieces = range(0, len(whole), len(whole) // 20 + 1)
        for first in pieces:
            file.write(whole[first : first + pieces.step])
            time.sleep(0.1)
    values, stderr = finish(process)
    assert (values["done"], values["failed"]) == (2, 0) and "warning" not in stderr, stderr
    masks = tmp_path / "out/masks"
    assert (masks / "slow.png").read_bytes() == (masks / "000.png").read_bytes()


def test_a_copy_that_stalls_is_told_of_and_tried_again_when_it_goes_on(inbox, tmp_path):
    folder, drop = inbox
    drop(0)
    file = folder / "images/000.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    process = start(folder, tmp_path / "out", "--label", "banana", "--stop-after", "3")
    wait_for(lambda: getattr(read_journal(tmp_path / "out").get("000"), "status", None) == "failed")
    file.write_bytes(whole)
    values, stderr = finish(process)
    assert (values["done"], values["failed"]) == (1, 0)
    assert stderr.count("the file is damaged") == 1 and "tried again when its files change" in stderr


def test_images_wait_for_their_masks_and_labels_may_come_later(inbox, tmp_path):
    folder, drop = inbox
    (folder / "labels.json").write_text('{"000": "banana"}')
    process = start(folder, tmp_path / "out", "--stop-after", "4")
    drop(0), drop(1)
    shutil.copyfile(folder / "images/000.png", folder / "images/alone.png")
    wait_for(lambda: {"000", "001"} <= read_journal(tmp_path / "out").keys())
    assert read_journal(tmp_path / "out")["001"].status == "failed"
    (folder / "labels.json").write_text('{"000": "banana", "001": "fox"}')
    values, stderr = finish(process)
    assert (values["done"], values["failed"], values["waiting"]) == (2, 0, ["alone"])
    assert "labels.json: it does not say what the mask of 001 shows" in stderr


def test_ctrl_c_ends_it_with_what_was_done(inbox, tmp_path):
    folder, drop = inbox
    drop(0)
    process = start(folder, tmp_path / "out", "--label", "banana")
    wait_for(lambda: results(tmp_path / "out"))
    process.send_signal(signal.SIGTERM)
    values, stderr = finish(process)
    assert process.returncode == 0 and values["done"] == 1
    assert "the next watch of this folder does what is missing" in stderr and "Traceback" not in stderr


def test_ctrl_c_between_a_result_and_its_entry_loses_neither(inbox, tmp_path, monkeypatch):
    class Interrupted(Pool):
        def refine(self, items):
            for _ in super().refine(items):
                raise KeyboardInterrupt

    monkeypatch.setattr("segrefine.batch.watch.Pool", Interrupted)
    folder, drop = inbox
    drop(0)
    result = run("watch", folder, tmp_path / "out", "--json", *QUICK, "--label", "banana")
    assert result.exit_code == 0 and json.loads(result.stdout)["done"] == 1, result.output
    assert read_journal(tmp_path / "out")["000"].status == "done"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 1, "nobody says what the masks in"),
        (["--label", "fox", "--classes", "voc"], 1, "--classes is for"),
        (["--zero-shot", "--label", "fox"], 1, "--label is for a mask for each image"),
    ],
)
def test_what_nobody_can_do_is_told_before_anything_is_written(inbox, tmp_path, words, status, told):
    folder, _ = inbox
    result = run("watch", folder, tmp_path / "out", *words)
    assert result.exit_code == status and told in result.stderr and "hint: " in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_files_that_name_their_classes_need_no_option(scenes, tmp_path):
    folder = tmp_path / "inbox"
    picture = next(iter(sorted((scenes / "images").iterdir())))
    (folder / "images").mkdir(parents=True)
    shutil.copyfile(picture, folder / "images/000.png")
    (folder / "labels").mkdir()
    (folder / "labels/000.txt").write_text("1 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n")
    (folder / "classes.txt").write_text("fox\ncar\n")
    values, _ = finish(start(folder, tmp_path / "out", "--stop-after", "1"))
    assert (values["done"], values["failed"]) == (1, 0)
    assert (tmp_path / "out/labels/000.txt").read_text().startswith("1 ")
    assert (tmp_path / "out/classes.txt").read_text() == "fox\ncar\n"


def test_a_folder_without_images_and_masks_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    result = run("watch", tmp_path / "in", tmp_path / "out", "--label", "fox")
    assert result.exit_code == 1 and "there is no folder" in result.stderr and "expected DIR/images" in result.stderr
