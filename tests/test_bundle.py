"""Bundles: what is written is read back, and nothing half-written, altered or foreign is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrefine import storage
from segrefine.bundle import MANIFEST, Bundle, BundleWriter, Manifest
from segrefine.engines.load import load_engine
from segrefine.errors import BundleError, IntegrityError, OutputError
from tests.tiny_bundle import manifest, write_bundle, write_files

DATA = "linear/model.onnx_data"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle")


def edit_manifest(bundle: Bundle, edit: Callable[[dict[str, Any]], Any]) -> None:
    file = bundle.path / MANIFEST
    raw = json.loads(file.read_text())
    edit(raw)
    file.write_text(json.dumps(raw))


def test_what_is_written_is_read_back(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.path)
    opened.verify()
    assert opened.manifest == bundle.manifest
    assert set(opened.manifest.files) == {
        "linear/model.onnx",
        DATA,
        "chain/model.onnx",
        "scheduler/scheduler_config.json",
    }
    assert opened.read_json("scheduler/scheduler_config.json") == {"num_train_timesteps": 1000}
    assert opened.graph("chain") == bundle.path / "chain/model.onnx"
    assert opened.graph_files("linear") == ("linear/model.onnx", DATA)
    assert os.listdir(bundle.path.parent) == ["bundle"]


def test_files_can_be_read_by_whoever_may_read_the_folder(bundle: Bundle) -> None:
    mode = bundle.path.stat().st_mode & 0o666
    assert {path.stat().st_mode & 0o777 for path in bundle.path.rglob("*") if path.is_file()} == {mode}


def test_each_file_is_hashed_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    original = storage.FileRecord.of
    monkeypatch.setattr(storage.FileRecord, "of", lambda path: hashed.append(path.name) or original(path))
    bundle.graph("linear")
    bundle.graph("linear")
    assert hashed == ["model.onnx", "model.onnx_data"]


def test_missing_folder_and_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder") as caught:
        Bundle.open(tmp_path / "nowhere")
    assert caught.value.hint == "make a bundle with `segrefine export MODEL BUNDLE`; MODEL may be `photo`"
    with pytest.raises(BundleError, match="is not a bundle: it has no segrefine.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', b"\xff\xfe", "[" * 100_000])
def test_manifest_that_is_no_json_object(bundle: Bundle, text: str | bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match="segrefine.json"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format_version", 2, "format_version: expected 1, the one that this segrefine reads; got 2"),
        ("format_version", None, "got None"),
        ("sample_size", "16", "sample_size: expected int, got '16'"),
        ("sample_size", True, "sample_size: expected int, got True"),
        ("prediction_type", "noise", "prediction_type: expected epsilon or v_prediction or sample, got 'noise'"),
        ("sample_size", 0, "sample_size: expected a positive number, got 0"),
        ("scaling_factor", "x", "scaling_factor: expected float, got 'x'"),
        ("dtype", "bf16", "dtype: expected fp32 or fp16, got 'bf16'"),
        ("graphs", {}, "graphs: expected those of the components"),
        ("components", {"linear": {}, "chain": {}}, "malformed entry: KeyError"),
        ("components", {"linear": 3, "chain": 4}, "malformed entry"),
        ("files", {"a": {"sha256": "", "bytes": 0}}, "malformed entry"),
        ("files", {"a": 1}, "malformed entry"),
    ],
)
def test_manifest_with_a_wrong_value_names_it(bundle: Bundle, entry: str, value: Any, message: str) -> None:
    edit_manifest(bundle, lambda raw: raw.update({entry: value}))
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle.path)
    assert MANIFEST in str(caught.value) and caught.value.hint


def test_every_entry_of_the_manifest_is_required(bundle: Bundle) -> None:
    younger = {"quantized", "zero_shot"}  # than the format
    for entry in json.loads((bundle.path / MANIFEST).read_text()).keys() - younger:
        raw = json.loads((bundle.path / MANIFEST).read_text())
        del raw[entry]
        with pytest.raises(BundleError):
            Manifest.from_dict(raw)


@pytest.mark.parametrize(
    "relative", ["../outside", "/etc/passwd", "linear/../../x", "./x", "a//b", "", "a\\..\\b", "a\0b"]
)
def test_paths_that_leave_the_bundle_are_refused_at_once(bundle: Bundle, relative: str) -> None:
    (bundle.path.parent / "outside").write_text("secret")
    for edit in (
        lambda raw: raw["files"].update({relative: {"sha256": "", "size": 6}}),
        lambda raw: raw["graphs"].update({"linear": relative}),
    ):
        original = (bundle.path / MANIFEST).read_text()
        edit_manifest(bundle, edit)
        with pytest.raises(IntegrityError, match="leaves the bundle"):
            Bundle.open(bundle.path)
        (bundle.path / MANIFEST).write_text(original)


def missing(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def linked(file: Path) -> None:
    twin = file.with_name("twin")
    file.rename(twin)
    file.symlink_to(twin)


def linked_outside(file: Path) -> None:
    outside = file.parents[2] / "outside"
    file.rename(outside)
    file.symlink_to(outside)


def folder_linked(file: Path) -> None:
    outside = file.parents[2] / "outside"
    file.parent.rename(outside)
    file.parent.symlink_to(outside, target_is_directory=True)


def link_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def link_to_another(file: Path) -> None:
    linked_outside(file)
    altered(file.resolve())


def link_to_nothing(file: Path) -> None:
    linked_outside(file)
    file.resolve().unlink()


def link_to_a_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "is missing"),
        (truncated, "expected 4096 bytes, got 4095"),
        (altered, "was altered"),
        (link_loop, "is missing"),
        (link_to_another, "was altered"),
        (link_to_nothing, "is missing"),
        (link_to_a_device, "is missing"),
        (pipe, "is missing"),
    ],
)
def test_damaged_file_is_named_and_never_handed_out(
    bundle: Bundle, damage: Callable[[Path], None], message: str
) -> None:
    damage(bundle.path / DATA)
    opened = Bundle.open(bundle.path)
    for read in (lambda: opened.file(DATA), lambda: opened.graph("linear"), opened.verify):
        with pytest.raises(IntegrityError, match=message) as caught:
            read()
        assert str(bundle.path / "linear") in str(caught.value)
        assert caught.value.hint == "export the bundle again with `segrefine export MODEL BUNDLE --overwrite`"
    assert opened.graph("chain").is_file()


def test_bundle_that_is_itself_behind_a_link_is_read(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle.path)
    Bundle.open(tmp_path / "link").verify()


@pytest.mark.parametrize("place", [linked, linked_outside, folder_linked])
def test_files_behind_links_are_read(bundle: Bundle, place: Callable[[Path], None]) -> None:
    place(bundle.path / DATA)
    opened = Bundle.open(bundle.path)
    opened.verify()
    assert opened.file(DATA).read_bytes()


def test_a_bundle_in_the_cache_of_a_hub_is_read(bundle: Bundle, tmp_path: Path) -> None:
    """There each file is a link to a blob that is named by its hash."""
    snapshot = tmp_path / "snapshots" / "0123abc"
    for file in [path for path in bundle.path.rglob("*") if path.is_file()]:
        blob, link = tmp_path / "blobs" / str(hash(file)), snapshot / file.relative_to(bundle.path)
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(file.read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))
    opened = Bundle.open(snapshot)
    opened.verify()
    for component in opened.manifest.graphs:
        for backend in ("onnxruntime", "openvino"):
            load_engine(opened, component, backend).close()


def test_a_manifest_whose_link_leads_nowhere_is_named(bundle: Bundle) -> None:
    linked(bundle.path / MANIFEST)
    Bundle.open(bundle.path).verify()
    (bundle.path / "twin").unlink()
    with pytest.raises(BundleError, match="segrefine.json is a link to .*twin, which is missing") as caught:
        Bundle.open(bundle.path)
    assert "cp -rL" in str(caught.value.hint)


def test_unlisted_file_and_unknown_component(bundle: Bundle) -> None:
    (bundle.path / "extra.json").write_text("{}")
    with pytest.raises(IntegrityError, match="extra.json: it is not listed"):
        bundle.file("extra.json")
    with pytest.raises(BundleError, match="no component 'unet'") as caught:
        bundle.graph("unet")
    assert caught.value.hint == "choose of: linear, chain"


def test_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), BundleWriter(tmp_path / "bundle") as writer:
        write_files(writer.directory)
        raise RuntimeError("half way")
    assert os.listdir(tmp_path) == []


def test_graph_that_was_not_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="chain/model.onnx was not written"), BundleWriter(tmp_path / "b") as writer:
        write_files(writer.directory)
        (writer.directory / "chain/model.onnx").unlink()
        writer.finish(manifest())
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from segrefine.bundle import BundleWriter
from tests.tiny_bundle import write_files
with BundleWriter(sys.argv[1]) as writer:
    write_files(writer.directory)
    print(writer.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_writer_leaves_nothing_loadable_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    killed = subprocess.run([sys.executable, "-c", KILLED, target], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    leftover = Path(killed.stdout.strip())
    assert leftover.is_dir() and not target.exists()
    for path in (target, leftover):
        with pytest.raises(BundleError):
            Bundle.open(path)
    write_bundle(target).verify()
    assert os.listdir(tmp_path) == ["bundle"]


def test_writer_leaves_another_living_writer_alone(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as first:
        write_files(first.directory)
        with BundleWriter(tmp_path / "bundle"):
            assert (first.directory / DATA).is_file()
        first.finish(manifest()).verify()


def test_taken_place(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already") as caught:
        write_bundle(bundle.path)
    assert caught.value.hint == "add --overwrite, or choose another place"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    for place in (tmp_path / "photos", tmp_path / "photos/cat.jpg"):
        with pytest.raises(OutputError, match="exists and is not a bundle"):
            write_bundle(place, overwrite=True)
    assert (tmp_path / "photos/cat.jpg").read_text() == "cat"


def test_overwriting_replaces_all_of_the_old_bundle(bundle: Bundle) -> None:
    (bundle.path / "engines").mkdir()
    write_bundle(bundle.path, overwrite=True).verify()
    assert not (bundle.path / "engines").exists()
    assert os.listdir(bundle.path.parent) == ["bundle"]


def test_empty_folder_is_a_fine_place(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write_bundle(tmp_path / "bundle").verify()


def test_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place, reason in ((tmp_path / "file/bundle", "Not a directory"), (tmp_path / "no/bundle", "No such file")):
        with pytest.raises(OutputError, match=reason) as caught:
            write_bundle(place)
        assert str(place) in str(caught.value) and caught.value.hint == "choose a folder that exists and is writable"
    with pytest.raises(OutputError, match="cannot write"):
        write_bundle(Path("/proc/segrefine-bundle"))
