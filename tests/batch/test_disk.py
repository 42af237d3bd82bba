"""A disk that is full, and folders that are no place for results."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segrefine.batch.journal import JOURNAL, Entry, Journal
from tests.batch.copies import copies
from tests.batch.runs import refine, results, run, start


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of its own in memory, as large as one says and says again."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        options = f"{'remount,' * folder.is_mount()}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk to fill needs a mount, which is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_and_room_on_it_later(disk, scenes):
    source = copies(scenes, 5)
    output = disk("20k") / "out"  # five pages: options, journal, and three results
    result = run("batch", source, output, "--workers", 1, "--threads", 1)
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    told = [line for line in lines if line.startswith("warning: 00")]
    done = len(results(output))
    assert 0 < done < 5 and len(told) == 5 - done and all("No space left on device" in line for line in told)
    assert lines[-2].startswith("error: cannot write ")
    assert lines[-2].endswith(f"cannot write {output / 'manifest.json'}: No space left on device")
    assert lines[-1].startswith("hint: free some space, then continue with --resume")
    assert "unexpected" not in result.stderr
    assert f"{done} of 5 refined, {5 - done} failed" in result.stdout
    assert not (output / "manifest.json").exists() and not list(output.rglob("*.partial"))
    before = results(output)
    disk("1m")
    values = refine(source, output, "--workers", 1, "--resume")
    assert (values["done"], values["failed"], values["resumed"]) == (5, 0, done)
    assert before.items() <= results(output).items() and (output / "manifest.json").is_file()


def test_a_disk_without_any_room(scenes, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))

    process = start(copies(scenes, 2), tmp_path / "out", "--workers", "1", preexec_fn=limit)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and "error: cannot write" in stderr and "Traceback" not in stderr
    assert not list((tmp_path / "out").rglob("*.partial")) and not list((tmp_path / "out").rglob("*.png"))


def test_a_line_of_the_journal_that_was_cut_short_takes_no_other_with_it(tmp_path):
    journal = Journal(tmp_path)
    journal.add(Entry(name="first", status="done", seconds=1.0))
    size = (tmp_path / JOURNAL).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        journal.add(Entry(name="second", status="done", seconds=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / JOURNAL).stat().st_size == size + 20
    journal.add(Entry(name="third", status="done", seconds=1.0))
    assert list(Journal(tmp_path).entries) == ["first", "third"] and list(journal.entries)[1] == "second"


@pytest.mark.parametrize("command", ["batch", "sweep"])
def test_the_data_set_is_no_place_for_results(scenes, tmp_path, command):
    truth = tmp_path / "true"
    (truth / "truth").mkdir(parents=True)
    coco = scenes / "coco.json"
    coco.write_text('{"images": [], "annotations": [], "categories": []}')
    os.symlink(scenes / "masks", tmp_path / "link")
    cases = [
        (scenes, scenes, "is where the data set lies"),
        (scenes, scenes / "images/out", f"is in {scenes / 'images'}"),
        (scenes, tmp_path / "link/out", f"is in {scenes / 'masks'}"),
        (coco, scenes, "is where coco.json lies"),
        (coco, scenes / "images", f"is in {scenes / 'images'}"),
    ]
    if command == "sweep":
        cases += [(scenes, truth, "where the truth lies"), (scenes, truth / "truth/out", f"is in {truth / 'truth'}")]
    for source, output, message in cases:
        places = (source, truth, output) if command == "sweep" else (source, output)
        result = run(command, *places)
        assert result.exit_code == 2 and message in result.stderr, result.output
    assert sorted(path.name for path in scenes.iterdir()) == ["coco.json", "images", "labels.json", "masks"]
    assert not list(scenes.rglob("out"))


def test_a_folder_that_cannot_be_written_to(scenes, tmp_path):
    result = run("batch", scenes, "/proc/out")
    assert result.exit_code == 1 and "cannot write /proc/out" in result.stderr
    (tmp_path / "file").touch()
    assert run("batch", scenes, tmp_path / "file").exit_code == 2
    assert run("batch", scenes, tmp_path / "file/out").exit_code == 1


def test_a_read_only_disk(disk, scenes):
    folder = disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    result = run("batch", scenes, folder / "out")
    assert result.exit_code == 1 and "Read-only file system" in result.stderr and "is writable" in result.stderr


def test_the_manifest_and_json_agree(scenes, tmp_path):
    values = refine(scenes, tmp_path / "out", "--workers", 1)
    written = json.loads((tmp_path / "out/manifest.json").read_text())
    assert written.items() <= values.items() and values["unwritten"] == []
