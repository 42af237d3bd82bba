"""What is written, and that it follows Triton's rules."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segrefine import Bundle
from segrefine.assets import SHIPPED_BUNDLES, demo_bundle
from segrefine.errors import BackendError, IntegrityError, OutputError, SettingsError
from segrefine.triton.config import Serving, write_config
from segrefine.triton.repository import BUNDLE, write_repository
from tests.triton.rules import DEFINITION, broken_rules, parse_config

needs_definition = pytest.mark.skipif(
    not DEFINITION.exists(), reason="tritonclient is not installed (make .venv/.stamp-triton)"
)
EVERYTHING = Serving(
    name="x.y-z_1", version=3, backend="tensorrt", device="cuda:1", precision="fp32", instances=2, batch=4, delay=1.5
)


@needs_definition
@pytest.mark.parametrize("name", [*SHIPPED_BUNDLES, "demo-words"])
def test_model_keeps_the_rules(repository: Path, name: str) -> None:
    assert broken_rules(repository / name) == []


@needs_definition
def test_every_option_is_written(tmp_path: Path) -> None:
    version = write_repository(Bundle.open(demo_bundle()), tmp_path, EVERYTHING)
    assert version == tmp_path / "x.y-z_1/3" and broken_rules(version.parent) == []
    config = parse_config((version.parent / "config.pbtxt").read_text())
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 16
    assert (config.instance_group[0].count, list(config.instance_group[0].gpus)) == (2, [1])
    assert config.parameters["precision"].string_value == "fp32" and "threads" not in config.parameters


BREAKS: dict[str, tuple[str, Callable[[str], str]]] = {
    "name": ("is not the folder's", lambda text: text.replace('name: "demo"', 'name: "other"')),
    "no batch": ("dynamic batching takes", lambda text: text.replace("max_batch_size: 8", "max_batch_size: 0")),
    "dims": ("dims of -1", lambda text: text.replace("dims: [-1, -1, 3]", "dims: [-2, -1, 3]")),
    "twice": ("two of one name", lambda text: text.replace('name: "mask"', 'name: "image"')),
    "no GPU": ("its kind", lambda text: text.replace("KIND_CPU", "KIND_GPU")),
    "type": ("another type", lambda text: re.sub(r"TYPE_FP32(\s+dims: \[1, 64)", r"TYPE_INT64\1", text)),
    "file": ("no file", lambda text: text.replace('input_data_file: "mask"', 'input_data_file: "label"')),
    "text": ("are no text", lambda text: text.replace('input_data_file: "label"', "zero_data: true")),
    "optional": ("too few", lambda text: text.replace("    optional: true\n", "").replace("  optional: true\n", "")),
}


@needs_definition
@pytest.mark.parametrize("broken", BREAKS)
def test_rules_see_what_is_broken(repository: Path, tmp_path: Path, broken: str) -> None:
    model = shutil.copytree(repository / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns(BUNDLE))
    text, (message, change) = (model / "config.pbtxt").read_text(), BREAKS[broken]
    assert change(text) != text
    (model / "config.pbtxt").write_text(change(text))
    assert any(message in each for each in broken_rules(model))


def test_repository_holds_the_bundle_without_engines(tmp_path: Path) -> None:
    source = shutil.copytree(demo_bundle(), tmp_path / "source")
    (source / "engines").mkdir()
    (source / "engines/some").write_text("built here")
    version = write_repository(Bundle.open(source), tmp_path / "new/repository", Serving(name="fox"))
    Bundle.open(version / BUNDLE).verify()
    assert sorted(each.name for each in version.iterdir()) == [BUNDLE, "model.py"]
    assert not (version / BUNDLE / "engines").exists()


def test_second_version_joins_the_first(tmp_path: Path) -> None:
    bundle = Bundle.open(demo_bundle())
    first = write_repository(bundle, tmp_path, Serving(name="fox"))
    second = write_repository(bundle, tmp_path, Serving(name="fox", version=2))
    assert first.is_dir() and (second / "model.py").is_file()
    with pytest.raises(OutputError, match="exists already"):
        write_repository(bundle, tmp_path, Serving(name="fox", version=2))
    with pytest.raises(OutputError, match="another configuration"):
        write_repository(bundle, tmp_path, Serving(name="fox", version=3, batch=2))
    write_repository(bundle, tmp_path, Serving(name="fox", version=3, batch=2), overwrite=True)
    assert sorted(each.name for each in (tmp_path / "fox").iterdir()) == ["3", "config.pbtxt", "warmup"]


def test_damaged_bundle_leaves_nothing(tmp_path: Path) -> None:
    source = shutil.copytree(demo_bundle(), tmp_path / "source")
    (source / "unet/model.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError):
        write_repository(Bundle.open(source), tmp_path / "repository", Serving(name="fox"))
    assert list((tmp_path / "repository").iterdir()) == []


def test_what_no_engine_computes_is_not_written(tmp_path: Path) -> None:
    for serving, error in (
        (Serving(name="fox", backend="bogus"), BackendError),
        (Serving(name="fox", precision="bf16"), SettingsError),
        (Serving(name="fox", precision="fp16"), SettingsError),
    ):
        with pytest.raises(error):
            write_repository(Bundle.open(demo_bundle()), tmp_path / "repository", serving)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "values",
    [
        *({"name": "a/b"}, {"name": ".hidden"}, {"batch": 0}, {"version": 0}),
        *({"delay": -1}, {"delay": math.nan}, {"device": "gpu"}),
    ],
)
def test_value_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        Serving(**{"name": "fox", **values})


def test_tensorrt_is_placed_on_a_gpu() -> None:
    config = write_config(Bundle.open(demo_bundle()).manifest, Serving(name="fox", backend="tensorrt-rtx"))
    assert "kind: KIND_GPU" in config and "gpus: [0]" in config
