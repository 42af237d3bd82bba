"""Settings and guard written into a bundle: it is whole at every moment, and nothing else in it changes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle
from segrefine.bundle import Bundle
from segrefine.errors import BundleError, OutputError
from segrefine.runtime.guard import GUARD, MASK_FEATURES, PIXEL_FEATURES, Guard, Judge, read_guard
from segrefine.settings import G4SegSettings
from segrefine.tuning import bundle_fit
from segrefine.tuning.bundle_fit import hash_denoiser, write_fit
from tests.tuning.labelled import copy_bundle


def judge(count: int) -> Judge:
    return Judge(mean=(0.0,) * count, scale=(1.0,) * count, weights=(0.5,) * (count + 1))


def make_guard(threshold: float = 0.4, **about: object) -> Guard:
    return Guard(
        features=("colour", "text"), added=judge(2), removed=judge(2), mask=judge(len(MASK_FEATURES)),
        pixels=judge(len(PIXEL_FEATURES)), margin=0.25, threshold=threshold, least_contrast=0.01, about=about,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo bundle that no guard was fitted to."""
    return copy_bundle(tmp_path / "bundle")


def test_settings_and_guard_are_read_back_and_the_rest_is_as_it_was(bundle: Path) -> None:
    before = Bundle.open(bundle).manifest
    settings, guard = G4SegSettings(text_weight=7.0, worth_range=(0.1, 0.9)), make_guard(images=12, data="Füchse")
    written = write_fit(bundle, settings, guard)
    opened = Bundle.open(bundle)
    opened.verify()
    assert written.manifest == opened.manifest
    assert G4SegSettings.from_dict(opened.manifest.settings) == settings
    assert read_guard(opened) == guard
    after = opened.manifest.to_dict() | {"settings": before.settings}
    del after["files"][GUARD]
    assert after == before.to_dict()
    assert not list(bundle.rglob("*.partial"))


def test_a_second_fit_replaces_the_first(bundle: Path) -> None:
    write_fit(bundle, G4SegSettings(text_weight=7.0), make_guard(0.4))
    write_fit(bundle, G4SegSettings(text_weight=5.0), make_guard(0.9))
    opened = Bundle.open(bundle)
    assert (opened.manifest.settings["text_weight"], read_guard(opened)) == (5.0, make_guard(0.9))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_writer_that_is_killed_leaves_a_bundle_that_can_be_used(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write_fit(bundle, G4SegSettings(text_weight=7.0), make_guard(0.4))
    calls = []

    def killed(file: Path, content: bytes) -> None:
        calls.append(file)
        if len(calls) > step:
            raise KeyboardInterrupt
        file.write_bytes(content)

    monkeypatch.setattr(bundle_fit, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        write_fit(bundle, G4SegSettings(text_weight=5.0), make_guard(0.9))
    opened = Bundle.open(bundle)
    opened.verify()
    assert opened.manifest.settings["text_weight"] == 7.0
    assert read_guard(opened) in (make_guard(0.4), None)
    monkeypatch.undo()
    assert read_guard(write_fit(bundle, G4SegSettings(), make_guard(0.9))) == make_guard(0.9)


def test_a_bundle_of_the_other_method_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "gs"
    shutil.copytree(demo_gs_bundle(), folder)
    before = (folder / "segrefine.json").read_bytes()
    with pytest.raises(BundleError, match="generates masks"):
        write_fit(folder, G4SegSettings(), make_guard())
    assert (folder / "segrefine.json").read_bytes() == before
    assert not (folder / GUARD).exists()


def test_a_folder_that_cannot_be_written_to_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bundle_fit, "write_whole", refused)
    with pytest.raises(OutputError, match=f"cannot write {bundle}"):
        write_fit(bundle, G4SegSettings(), make_guard())


def test_the_hash_of_the_denoiser_is_of_graph_and_weights(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    first = hash_denoiser(opened)
    assert first == hash_denoiser(Bundle.open(demo_bundle()))
    write_fit(bundle, G4SegSettings(), make_guard())
    assert hash_denoiser(Bundle.open(bundle)) == first
    for name in opened.graph_files("unet"):
        record = opened.manifest.files[name]
        changed = {**opened.manifest.files, name: type(record)("0" * 64, record.size)}
        assert hash_denoiser(Bundle(bundle, replace(opened.manifest, files=changed))) != first
