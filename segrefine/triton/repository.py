"""Writing a model repository: one folder for Triton, with all that the model takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from segrefine.bundle import MANIFEST, Bundle
from segrefine.engines import check_choice
from segrefine.errors import OutputError
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from segrefine.storage import output_errors, staging_folder
from segrefine.triton.config import Serving, warm_up_files, write_config

BUNDLE = "bundle"
MODEL = '''"""Run by Triton's Python backend: segrefine's model, on the bundle beside this file."""

import triton_python_backend_utils

from segrefine.triton.model import TritonModel


class TritonPythonModel(TritonModel):
    """The model; Triton makes one for each instance."""

    backend = triton_python_backend_utils
'''


def write_repository(bundle: Bundle, folder: Path, serving: Serving, *, overwrite: bool = False) -> Path:
    """Writes a model into the repository at `folder`, beside those that are there; all of it, or nothing.

    `folder`/NAME holds config.pbtxt, the tensors of the warm-up, and a folder for each version with model.py and a
    copy of the bundle, without its engines: those are built where they run. A further version of a model joins it,
    where its configuration stays as it is: a server that polls the repository goes over to it.

    Returns:
        The folder of the version.

    Raises:
        BackendError: there is no such backend.
        BundleError: the bundle cannot find phrases zero-shot, and should.
        IntegrityError: a file of the bundle is damaged.
        OutputError: the version is there already, the model has another configuration, or nothing can be written.
        SettingsError: the bundle or the backend has another precision.
    """
    check_choice(bundle, serving.backend, serving.precision)
    if serving.zero_shot:
        bundle.check_method(ZeroShotSegmenter.method)
        ZeroShotSegmenter.components(bundle)
    model, config = folder / serving.name, write_config(bundle.manifest, serving)
    version = model / str(serving.version)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        joins = model.exists() and not overwrite
        if joins:
            _check_room(model, version, config)
    target = version if joins else model
    with staging_folder(target) as staging, output_errors(target):
        if joins:
            _write_version(bundle, staging)
        else:
            (staging / "config.pbtxt").write_text(config, encoding="utf-8")
            (staging / "warmup").mkdir()
            for name, content in warm_up_files(bundle.manifest, serving).items():
                (staging / "warmup" / name).write_bytes(content)
            (staging / version.name).mkdir()
            _write_version(bundle, staging / version.name)
            if model.exists():
                shutil.rmtree(model)
        staging.rename(target)
    return version


def _check_room(model: Path, version: Path, config: str) -> None:
    if version.exists():
        raise OutputError(f"{version} exists already", hint="choose another --model-version, or --overwrite")
    there = model / "config.pbtxt"
    if not there.is_file() or there.read_text(encoding="utf-8") != config:
        message = f"{model} is there with another configuration, and its versions share one"
        raise OutputError(message, hint="give the options that it was made with, choose another --name, or --overwrite")


def _write_version(bundle: Bundle, folder: Path) -> None:
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / BUNDLE).mkdir()
    shutil.copyfile(bundle.path / MANIFEST, folder / BUNDLE / MANIFEST)
    for relative in bundle.manifest.files:
        copy = folder / BUNDLE / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(relative), copy)
