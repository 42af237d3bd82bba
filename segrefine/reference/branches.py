"""Models with a second denoising branch, which are recognised and refused: half of such a model is another model."""

from __future__ import annotations

from pathlib import Path

from segrefine.errors import ExportError
from segrefine.storage import read_json_object

_BRANCHES = {
    "ControlNetModel", "ControlNetUnionModel", "ControlNetXSAdapter", "MultiControlNetModel", "SparseControlNetModel",
    "T2IAdapter", "MultiAdapter", "UNet2DConditionModel", "UNet2DModel", "UNetControlNetXSModel", "BrushNetModel",
}  # fmt: skip
"""Classes of parts that compute at each step of the sampler."""
_COPY = "_ema"
"""What the folder of a training's averaged weights ends with."""


def find_branches(folder: Path, denoiser: str) -> dict[str, str]:
    """The class of each denoising branch of a checkpoint beside its denoiser, by the name of its folder."""
    found = {}
    for config in sorted(folder.glob("*/config.json")):
        name = config.parent.name
        if name == denoiser or name.endswith(_COPY):
            continue
        kind = read_json_object(config, ExportError, hint="download the checkpoint again").get("_class_name")
        if kind in _BRANCHES:
            found[name] = str(kind)
    return found


def check_branches(folder: Path, denoiser: str) -> None:
    """Check that a checkpoint has one denoiser, and nothing that steers it from beside.

    Raises:
        ExportError: it has another branch; the hint says what exporting it would take.
    """
    branches = find_branches(folder, denoiser)
    if not branches:
        return
    words = " and ".join(f"{name} ({kind})" for name, kind in branches.items())
    message = f"{folder} has a denoiser {denoiser} and a second branch beside it: {words}"
    if denoiser == "unet":
        hint = (
            "to export the text-to-image model alone, move it to a folder without that; a label diffusion model with "
            "a branch of its own cannot be exported"
        )
    else:
        hint = (
            "expected one UNet that takes image and label latents joined (docs/gs.md); for a second branch, its graph, "
            "its states as inputs of the denoiser, and its steps in the sampler would be needed: open an issue with "
            "its config.json"
        )
    raise ExportError(message, hint=hint)
