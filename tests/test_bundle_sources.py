"""Bundles from Python by a word, by a folder, and by a hub id, from a cache laid out as huggingface-hub lays it out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub.constants as hub
import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle
from segrefine.bundle import Bundle
from segrefine.bundle_sources import find_bundle, local_bundle
from segrefine.errors import BundleError

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two revisions of a bundle, and a model that is none; nothing can be fetched."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    for revision in (OLD, NEW):
        lay_out(tmp_path / "hub/models--someone--bundle", revision, demo_bundle())
    model = tmp_path / "hub/models--someone--model"
    (model / "snapshots" / NEW).mkdir(parents=True)
    (model / "snapshots" / NEW / "model_index.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs/main").write_text(NEW)
    return tmp_path / "hub"


def lay_out(model: Path, revision: str, source: Path) -> None:
    """Every file of a revision is a link to a blob, as a download leaves it."""
    for file in sorted(path for path in source.rglob("*") if path.is_file() and "engines" not in path.parts):
        blob = model / "blobs" / file.relative_to(source).as_posix().replace("/", "-")
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copy(file, blob)
        link = model / "snapshots" / revision / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs/main").write_text(revision)


def test_words_of_the_demo_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_bundle("demo") == local_bundle("demo") == demo_bundle()
    assert find_bundle("demo-gs") == demo_gs_bundle()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert find_bundle(Path("demo")) == Path("demo")  # a path is a path
    assert find_bundle("./demo") == Path("demo")


def test_a_bundle_of_the_hub_and_its_revision(cache: Path) -> None:
    assert find_bundle("someone/bundle").name == NEW
    assert find_bundle("someone/bundle", OLD).name == OLD
    opened = Bundle.open(find_bundle("someone/bundle"))
    assert opened.file("scheduler/scheduler_config.json").is_file()  # a link whose content is the recorded one


def test_what_is_no_bundle(cache: Path, tmp_path: Path) -> None:
    for bundle, revision, message in (
        ("someone/model", None, "someone/model is not a bundle: it has no segrefine.json"),
        ("someone/else", None, "is not in the cache and cannot be fetched"),
        ("nowhere", None, "there is no bundle 'nowhere': neither a folder nor a hub id"),
        (str(tmp_path), "main", "a revision is for hub ids"),
    ):
        with pytest.raises(BundleError, match=message) as refused:
            find_bundle(bundle, revision)
        assert refused.value.hint
