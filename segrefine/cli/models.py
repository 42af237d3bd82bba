"""From what a user calls a model to a folder."""

from __future__ import annotations

from pathlib import Path

from segrefine.assets import demo_checkpoint
from segrefine.errors import ExportError

_PARTS = ("model_index.json", "unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*")
_FORMATS = ("*.json", "*.txt", "*.safetensors")


def find_checkpoint(model: str, revision: str | None = None) -> Path:
    """The folder of "demo", of a path, or of a model on the Hugging Face hub (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN count).

    Raises:
        ExportError: there is no such folder, and the hub has not got it.
    """
    if model == "demo":
        return demo_checkpoint()
    if Path(model).exists():
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise ExportError(f"there is no folder {model}", hint="give a diffusers folder, a hub id ORG/NAME, or: demo")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [
        f"{part.removesuffix('*')}{form}" if part.endswith("*") else part for part in _PARTS for form in _FORMATS
    ]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"the hub gave no model {model}: {reason}",
            hint="check the name, the network, and HF_TOKEN for gated models",
        ) from error
