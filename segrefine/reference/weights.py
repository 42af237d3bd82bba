"""A part of a checkpoint, loaded: weights stay in their file, mapped, as long as they are of the right type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from segrefine.errors import ExportError
from segrefine.reference.weight_files import find_weights, is_idle, read_header
from segrefine.storage import readable_texts

_TYPES = {"F64": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_HINT = "take the part's config.json and weights again, both from where they came from"


def load_weights(kind: Any, model: Path, part: str, dtype: torch.dtype | None) -> nn.Module:
    """One part of the model in a folder, in evaluation mode, without gradients.

    A half-precision variant serves where it is alone.

    Args:
        kind: class of the part.
        model: the folder.
        part: its name, such as "unet".
        dtype: of all its weights; None is the widest that is stored.

    Raises:
        ExportError: weights are missing, are others than the model's, or cannot be read.
    """
    folder, (variant, files) = model / part, find_weights(model, part)
    if dtype is None:
        dtype = _stored_type(files)
    options: dict[str, Any] = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    if issubclass(kind, PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # so that they are in the report, and not in the library's words
    try:
        # "low CPU memory" is what maps the files and makes no random weights first
        with _quiet(), readable_texts(folder) as clean:
            loaded, report = kind.from_pretrained(
                clean, torch_dtype=dtype, low_cpu_mem_usage=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, TypeError, StrictDataclassError) as error:
        raise ExportError(f"cannot load {folder} as {kind.__name__}: {error}", hint=_HINT) from error
    # transformers computes position_ids itself; files of older versions hold them
    if missing := sorted(name for name in report["missing_keys"] if not name.endswith("position_ids")):
        raise ExportError(f"cannot load {folder} as {kind.__name__}: {missing[0]} is missing", hint=_HINT)
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        message = f"{folder}: {name} has the shape {tuple(stored)}, and config.json asks for {tuple(wanted)}"
        raise ExportError(message, hint=_HINT)
    if unexpected := sorted(name for name in report["unexpected_keys"] if not is_idle(part, name)):
        message = f"{folder}: {kind.__name__} has no place for the tensor {unexpected[0]}"
        raise ExportError(message, hint="it would be left out: take it out of the file if the model works without it")
    return cast(nn.Module, loaded.eval().requires_grad_(False))


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without transformers' own report of what it loaded."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _stored_type(files: Sequence[Path]) -> torch.dtype:
    """The widest type of floats in safetensors files."""
    stored = {tensor.dtype for file in files for tensor in read_header(file).values()}
    return next((dtype for name, dtype in _TYPES.items() if name in stored), torch.float32)
