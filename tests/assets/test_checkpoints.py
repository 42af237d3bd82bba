"""The checkpoints of a wheel: put together from its bundles, byte for byte those of the source tree."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import segrefine.assets
from segrefine.assets.checkpoints import RECIPE, REST, whole_checkpoint
from segrefine.errors import IntegrityError

ASSETS = Path(segrefine.assets.__file__).parent
HOOK = Path(__file__).parents[2] / "hatch_build.py"


@pytest.fixture(scope="module")
def hook() -> Iterator[ModuleType]:
    """What builds a wheel; only builders have hatchling installed."""
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    interface = SimpleNamespace(BuildHookInterface=object)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", interface)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def wheel(hook: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assets as a wheel installs them."""
    root = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ASSETS, root / "assets", ignore=shutil.ignore_patterns("*.safetensors", "*.png"))
    builder = hook.CustomBuildHook()
    builder.root = root / "source"
    (builder.root / "segrefine").mkdir(parents=True)
    (builder.root / "segrefine/assets").symlink_to(ASSETS)
    data: dict[str, dict[str, str]] = {"force_include": {}}
    builder.initialize("standard", data)
    for source, target in data["force_include"].items():
        shutil.copyfile(source, root / Path(target).relative_to("segrefine"))
    builder.finalize("standard", data, "")
    return root / "assets"


@pytest.fixture(params=["photo-checkpoint", "photo-gs-checkpoint"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Path:
    """A checkpoint in those assets."""
    folder = Path(shutil.copytree(wheel, tmp_path / "assets"))
    return folder / request.param


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_gives_every_file_of_the_source_tree(installed: Path) -> None:
    whole = whole_checkpoint(installed)
    assert whole != installed and whole == whole_checkpoint(installed)
    assert files(whole) == files(ASSETS / installed.name)
    left_out = sum(len(content) for name, content in files(whole).items() if name.endswith(".safetensors"))
    assert (installed / REST).stat().st_size + (installed / RECIPE).stat().st_size < 0.1 * left_out


@pytest.mark.parametrize("cut", [True, False])
def test_a_bundle_that_was_changed_is_named(installed: Path, cut: bool) -> None:
    pieces = [piece for made in json.loads((installed / RECIPE).read_text()).values() for piece in made["pieces"]]
    file = installed.parent / next(name for name, *_ in pieces if name != REST)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if cut else bytes(len(content)))
    with pytest.raises(IntegrityError, match=f"{installed.name}/.*safetensors: .* not those") as refused:
        whole_checkpoint(installed)
    assert "install segrefine again" in (refused.value.hint or "")


def test_a_source_tree_is_left_as_it_is(hook: ModuleType) -> None:
    assert whole_checkpoint(ASSETS / "demo-checkpoint") == ASSETS / "demo-checkpoint"
    hook.CustomBuildHook().initialize("editable", {})


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "pyproject.toml"])
def test_who_builds_from_chosen_files_chooses_the_hook(name: str) -> None:
    lines = (HOOK.parent / name).read_text("utf-8").splitlines()
    assert any(HOOK.name in line for line in lines if line.startswith(("COPY ", "!", "include = ")))


def test_no_configuration_names_a_path_of_one_machine() -> None:
    configurations = [*ASSETS.glob("*-checkpoint/*/config.json"), *ASSETS.glob("*-checkpoint/model_index.json")]
    assert len(configurations) > 9
    for file in configurations:
        assert "_name_or_path" not in json.loads(file.read_text("utf-8")), file
