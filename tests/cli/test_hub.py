"""Models by hub id, from a cache laid out as huggingface-hub lays it out; nothing is fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.single_file import write_single_file

OLD, NEW = "1" * 40, "2" * 40
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def lay_out(home: Path, name: str, revision: str, source: Path, *unwanted: str, newest: bool = True) -> None:
    """Puts a folder into the cache as a model's files at a revision, as what a download leaves."""
    model = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, model / "snapshots" / revision, ignore=shutil.ignore_patterns(*unwanted))
    (model / "refs").mkdir(exist_ok=True)
    if newest:
        (model / "refs" / "main").write_text(revision)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A cache with two revisions of one model; the older one has no VAE."""
    folder = tmp_path_factory.mktemp("hub") / "home"
    lay_out(folder, "someone/tiny", OLD, tiny_checkpoint, "vae", newest=False)
    lay_out(folder, "someone/tiny", NEW, tiny_checkpoint)
    return folder


COMMAND_LINES = """
import json, sys
from click.testing import CliRunner
from segrefine.cli import main
for line in sys.stdin:
    done = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""
"""Runs the command lines that it reads. The hub's library reads the environment once, at its import."""

Export = Callable[..., "Done"]


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def export(home: Path) -> Iterator[Export]:
    """`segrefine export` of a text encoder, in one process that reads the cache."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", COMMAND_LINES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:  # type: ignore[call-overload]

        def run(*words: object) -> Done:
            given = ["export", *map(str, words), "--components", "text_encoder", "--json"]
            print(json.dumps(given), file=process.stdin, flush=True)
            return Done(*json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


def test_a_cached_model_and_a_pinned_revision(export: Export, tmp_path: Path) -> None:
    done = export("someone/tiny", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == NEW
    pinned = export("someone/tiny", tmp_path / "other", "--revision", OLD)
    assert pinned.returncode == 1
    assert OLD in pinned.stderr and "vae/config.json is missing" in pinned.stderr


def test_what_is_not_in_the_cache(export: Export, tmp_path: Path) -> None:
    done = export("someone/else", tmp_path / "bundle")
    *_, error, hint = done.stderr.splitlines()
    assert "is not in the cache and cannot be fetched" in error and "HF_HUB_OFFLINE" in hint
    assert done.returncode == 1 and not (tmp_path / "bundle").exists()


def test_a_single_file_takes_its_configuration_from_the_cache(
    export: Export, home: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    file = write_single_file(tiny_checkpoint, tmp_path / "model.safetensors")
    *_, error, hint = export(file, tmp_path / "bundle").stderr.splitlines()
    assert f"are those of {SD15}" in error and "--config" in hint
    given = export(file, tmp_path / "given", "--config", "someone/tiny")
    assert given.returncode == 0, given.stderr
    lay_out(home, SD15, NEW, tiny_checkpoint, "*.safetensors")
    *_, error, hint = export(file, tmp_path / "bundle").stderr.splitlines()
    assert "does not say what it predicts" in error and "stable-diffusion-2-1-base" in hint
    save_file(load_file(file) | {"v_pred": torch.tensor([])}, file)
    found = export(file, tmp_path / "bundle")
    assert found.returncode == 0, found.stderr


def test_a_configuration_for_what_has_its_own(fails, tiny_checkpoint: Path, tmp_path: Path) -> None:
    line = fails("export", tiny_checkpoint, tmp_path / "bundle", "--config", "a/b")
    assert "--config: expected a single file as MODEL" in line
