"""Data sets refined on a real Ray cluster of this machine, whose processes are killed on the way."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segrefine.assets import demo_bundle
from segrefine.batch.cluster import Cluster, Share
from segrefine.batch.journal import Entry, read_journal
from segrefine.batch.run import run_batch
from segrefine.batch.worker import Job
from segrefine.cli import main
from segrefine.engines import EngineOptions
from segrefine.errors import BundleError
from segrefine.runtime.engine_set import PipelineSetup
from tests.batch.copies import copies, damaged_bundle
from tests.batch.deadly import deadly

ray = pytest.importorskip("ray", reason="the tests of the cluster take Ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three cores and a GPU, as far as Ray knows: it counts what it is told."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # to be as quick as all else here
    ray.init(num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield Cluster(ray)
    ray.shutdown()


def job(source: Path, output: Path, bundle: Path | None = None) -> Job:
    setup = PipelineSetup(bundle=bundle or demo_bundle(), engines=EngineOptions(threads=1))
    return Job(source=source, images=None, output=output, setup=setup)


def actors(doing: bytes = b"ray::Worker") -> list[int]:
    """The processes of actors, by what Ray calls them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(doing):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def inodes(output: Path) -> dict[str, int]:
    """Of every result: that of a file that was written again is another."""
    return {path.name: path.stat().st_ino for path in (output / "masks").iterdir()}


@pytest.mark.parametrize(("workers", "count"), [(2, 8), pytest.param(3, 16, marks=pytest.mark.slow)])
def test_a_worker_is_killed_and_every_item_is_accounted_for(cluster, scenes, tmp_path, workers, count):
    source, output = copies(scenes, count), tmp_path / "out"
    (source / "images" / "005.png").write_bytes(b"no picture")
    killed, before = [], {}

    def tell(entry: Entry, number: int, total: int) -> None:
        if number == 3:
            before.update(inodes(output))
            killed.extend(actors()[:1])
            os.kill(killed[0], signal.SIGKILL)

    values = run_batch(job(source, output), workers=workers, tell=tell, refine_all=cluster.refine_all(Share()))
    assert killed and (values["items"], values["done"], values["failed"]) == (count, count - 1, 1)
    assert [(each["name"], each["error"]) for each in values["failures"]] == [("005", "ImageError")]
    after = inodes(output)
    assert len(after) == count - 1 and before.items() <= after.items()
    assert len({path.read_bytes() for path in (output / "masks").iterdir()}) == 1
    lines = [json.loads(line)["name"] for line in (output / "journal.jsonl").read_text().splitlines()]
    assert sorted(lines) == [f"{number:03d}" for number in range(count)]
    (source / "images" / "005.png").write_bytes((source / "images" / "004.png").read_bytes())
    values = run_batch(
        job(source, output), workers=1, resume=True, refine_all=cluster.refine_all(Share(cpus=1, gpus=0.5))
    )
    assert (values["done"], values["failed"], values["resumed"]) == (count, 0, count - 1)
    assert after.items() <= inodes(output).items()


def test_room(cluster):
    assert cluster.room(Share()) == 3 and cluster.room(Share(cpus=2)) == 1 and cluster.room(Share(cpus=4)) == 0
    assert cluster.room(Share(cpus=1, gpus=0.5)) == 2 and cluster.room(Share(cpus=0.5, gpus=1)) == 1


@pytest.mark.slow
def test_of_the_images_that_a_dead_worker_held_only_the_one_that_it_died_of_has_failed(cluster, scenes, tmp_path):
    source, output = copies(scenes, 3), tmp_path / "out"
    with deadly(source / "images/001.png") as killed:
        values = run_batch(job(source, output), workers=1, refine_all=cluster.refine_all(Share()))
    assert len(killed) == 2 and (values["done"], values["failed"]) == (2, 1)
    assert read_journal(output)["001"].error == "WorkerDied" and values["failures"][0]["hint"]


@pytest.mark.slow
def test_engines_that_do_not_open(cluster, scenes, tmp_path):
    damaged = job(scenes, tmp_path / "out", bundle=damaged_bundle(tmp_path / "damaged"))
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        run_batch(damaged, workers=2, refine_all=cluster.refine_all(Share()))
    deadline = time.monotonic() + 30
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not actors()


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.slow
def test_a_cluster_of_its_own(scenes, tmp_path):
    ray.shutdown()  # this test starts another
    done = run("batch", scenes, tmp_path / "out", "--ray", "local", "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["done"] == 3
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there(scenes, tmp_path, monkeypatch):
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run("batch", scenes, tmp_path / "out", "--ray", "127.0.0.1:1")
    assert done.exit_code == 1 and "no Ray cluster at 127.0.0.1:1" in done.stderr and "ray start" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"), [(["--gpus", 1], "with --ray"), (["--ray", "local", "--gpus", 1.5], "whole number")]
)
def test_words_that_do_not_go_together(scenes, tmp_path, words, message):
    done = run("batch", scenes, tmp_path / "out", *words)
    assert done.exit_code == 2 and message in done.stderr
