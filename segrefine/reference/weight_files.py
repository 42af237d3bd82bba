"""Safetensors files, read by their headers alone: which tensors they hold, and whether files and shards are whole."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError
from segrefine.storage import read_json_object

PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
"""In a single file, what the names of a part's tensors begin with."""

_IDLE = {
    "unet": (),
    "label_denoiser": (),
    "vae": (r"loss\.", r"model_ema\."),
    "text_encoder": (
        *(r".*position_ids$", r".*logit_scale$", r".*attn_mask$", r"(.*\.)?text_projection(\.weight)?$"),
        *(r".*transformer\.resblocks\.23\.", r"vision_model\.", r"visual_projection\."),
    ),
    "text_encoder_2": (r".*position_ids$", r".*logit_scale$", r".*attn_mask$"),
}
"""Tensors that files have beside a part's weights, and that its output does not depend on: what training took (losses,
averages, the scale of CLIP's logits), positions and causal masks that are computed anyway, CLIP's image side and
projection, and the last layer of OpenCLIP's ViT-H, which Stable Diffusion 2.x does not run."""

_BESIDE = re.compile(
    r"model_ema\.|(sqrt_(one_minus_|recip_|recipm1_)?)?alphas_cumprod(_prev)?$|sqrt_recip(m1)?_alphas_cumprod$|betas$"
    r"|log_one_minus_alphas_cumprod$|posterior_|lvlb_weights$|logvar$|scale_factor$|(log_)?sigmas$|denoiser\."
    r"|v_pred$|ztsnr$|(.*\.)?scaled_fp8$|loss\.|safety_checker\."
)
"""Tensors beside the parts of a single file that no part needs: averages of weights, noise levels (they are checked
against the schedule), marks that are read by name, and the safety checker."""

VARIANTS = (None, "fp32", "fp16", "bf16")
"""Names of variants in a folder, the preferred first: `model.safetensors`, `model.fp32.safetensors`, …"""

_LONGEST_HEADER = 100 << 20
_METADATA = "__metadata__"
_AGAIN = "fetch it again from where it came from"
_WHOLE = "take the whole folder again from where it came from"


@dataclass(frozen=True)
class SingleFile:
    """A model whose weights are in one file.

    Attributes:
        file: the weights, in safetensors.
        config: a diffusers folder of the same architecture: configurations, tokenizers and schedule are read from it.
        guessed: nobody chose the configuration: it is that of the model whose weights have the same shapes.
    """

    file: Path
    config: Path
    guessed: bool = False


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        dtype: in the file's words, such as "F16".
        shape: its sides.
        start: where it begins, in bytes from the start of the file.
        end: where it ends.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """Return the number of values in the tensor."""
        return math.prod(self.shape)

    @classmethod
    def of(cls, entry: Mapping[str, Any], after: int) -> StoredTensor:
        """Parse a header's entry; a malformed one raises Python's own errors.

        Args:
            entry: such as `{"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}`.
            after: where the header ends.
        """
        start, end = (after + int(offset) for offset in entry["data_offsets"])
        return cls(str(entry["dtype"]), tuple(map(int, entry["shape"])), start, end)


Model = str | Path | SingleFile
"""A diffusers folder, or a single file."""


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the tensors' descriptions in a safetensors file, by name.

    Raises:
        ExportError: it is no such file, or not as long as its header says.
    """
    content, after = _read_entries(file)
    try:
        header = {name: StoredTensor.of(entry, after) for name, entry in content.items() if name != _METADATA}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_weights(file, json.dumps(content).encode()) from error
    there, whole = file.stat().st_size, max((stored.end for stored in header.values()), default=after)
    if there < whole:
        raise _cut_short(file, str(whole), there)
    if there > whole:
        raise ExportError("the file is damaged", subject=file, expected=f"{whole} bytes", got=there, hint=_AGAIN)
    return header


def read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, text by name.

    Raises:
        ExportError: it is no such file.
    """
    metadata = _read_entries(file)[0].get(_METADATA)
    return {name: str(text) for name, text in metadata.items()} if isinstance(metadata, dict) else {}


def read_tensor_bytes(file: Path, stored: StoredTensor) -> bytes:
    """The bytes of one tensor, which should be a small one."""
    with file.open("rb") as stream:
        stream.seek(stored.start)
        return stream.read(stored.end - stored.start)


def _read_entries(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where it ends."""
    try:
        with file.open("rb") as stream:
            there, start = file.stat().st_size, stream.read(8)
            size = int.from_bytes(start, "little")
            content = stream.read(min(size, _LONGEST_HEADER))
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror}", hint=_AGAIN) from error
    if there <= 8:
        raise _cut_short(file, "more than 8", there)
    if size > _LONGEST_HEADER or not content.startswith(b"{"):
        raise _no_weights(file, start + content)
    if len(content) < size:
        raise _cut_short(file, f"more than {8 + size}", there)
    try:
        return dict(json.loads(content)), 8 + size
    except (ValueError, TypeError, RecursionError) as error:
        raise _no_weights(file, start + content) from error


def find_weights(folder: Path, part: str) -> tuple[str | None, tuple[Path, ...]]:
    """The variant of a part's weights, one of `VARIANTS`, and its files; the whole ones are preferred.

    Args:
        folder: the model.
        part: its folder in there, such as "unet".

    Raises:
        ExportError: there are none, or shards do not match their index.
    """
    # as transformers or diffusers names them
    stem = folder / part / ("model" if part.startswith("text_encoder") else "diffusion_pytorch_model")
    for variant in VARIANTS:
        middle = "" if variant is None else f".{variant}"
        index = stem.with_name(f"{stem.name}.safetensors.index{middle}.json")
        if (single := stem.with_name(f"{stem.name}{middle}.safetensors")).is_file():
            return variant, (single,)
        if index.is_file():
            return variant, _check_shards(index)
    others = sorted(file.name for file in stem.parent.glob("*.safetensors"))
    pickled = [file.name for file in stem.parent.glob("*.bin")]
    hint = "weights are read from safetensors only"
    if others:
        hint = f"{others[0]} is there: to export it, rename it to {stem.name}.safetensors"
    elif pickled:
        hint += f"; {pickled[0]} is a pickle: load it with diffusers, if you trust it, and save_pretrained it"
    raise ExportError(f"{stem}.safetensors is missing", hint=hint)


def read_part_header(model: Model, part: str) -> dict[str, StoredTensor]:
    """Read the descriptions of one part's tensors in the files of a model, by name.

    Raises:
        ExportError: they are missing, or a file is not whole.
    """
    if isinstance(model, SingleFile):
        header = read_header(model.file)
        return {name: stored for name, stored in header.items() if name.startswith(PREFIXES[part])}
    header = {}
    for file in find_weights(Path(model), part)[1]:
        header |= read_header(file)
    return header


def find_strangers(file: Path, parts: Collection[str]) -> list[str]:
    """Tensors of a single file that belong to no part of its model, and that are not known to be unneeded.

    Args:
        file: the single file.
        parts: of the model, such as "unet".

    Raises:
        ExportError: the file is not whole.
    """
    known = tuple(prefix for part in parts for prefix in PREFIXES.get(part, ()))
    return sorted(name for name in read_header(file) if not name.startswith(known) and not _BESIDE.match(name))


def is_idle(part: str, name: str) -> bool:
    """Return whether a tensor that a part has no place for can be left out without a change of what the part computes.

    Args:
        part: its name, such as "unet".
        name: of the tensor, with or without the part's prefix in a single file.
    """
    for prefix in PREFIXES.get(part, ()):
        name = name.removeprefix(prefix)
    return any(re.match(pattern, name) for pattern in _IDLE[part])


def count_weights(model: Model, part: str) -> Counter[str]:
    """Count the numbers in the weights of a part, by the types that they are stored in; only headers are read.

    Raises:
        ExportError: they are missing, or a file is not whole.
    """
    counts = Counter[str]()
    for stored in read_part_header(model, part).values():
        counts[stored.dtype] += stored.count
    return counts


def _check_shards(index: Path) -> tuple[Path, ...]:
    """The shards that an index lists, once each holds the tensors that it should."""
    content = read_json_object(index, ExportError, hint=_WHOLE)
    try:
        placed: dict[str, str] = content["weight_map"]
        names = sorted(set(placed.values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{index} is not an index of shards: {error!r}", hint=_WHOLE) from error
    for name in names:
        file = index.parent / name
        if Path(name).name != name or not file.is_file():
            raise ExportError(f"{file} is missing: {index.name} lists it", hint=_WHOLE)
        expected = {tensor for tensor, place in placed.items() if place == name}
        if lacking := sorted(expected - read_header(file).keys()):
            raise ExportError(f"{file} lacks {lacking[0]}, which {index.name} says it has", hint=_WHOLE)
    return tuple(index.parent / name for name in names)


def _cut_short(file: Path, expected: str, there: int) -> ExportError:
    return ExportError("the file is truncated", subject=file, expected=f"{expected} bytes", got=there, hint=_AGAIN)


def _no_weights(file: Path, start: bytes) -> ExportError:
    """The error for a file that is called safetensors and is none, by its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return ExportError(f"{file} stands for weights that git-lfs keeps elsewhere", hint="fetch them: git lfs pull")
    message = f"{file} is not a safetensors file: {'it begins with ' + repr(start[:16]) if start else 'it is empty'}"
    return ExportError(message, hint=_AGAIN)
