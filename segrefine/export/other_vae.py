"""A model with another image codec, such as a small one that takes a fraction of the time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError
from segrefine.hub import fetch_folder, is_hub_id
from segrefine.reference.configs import CLASSES, SMALL_VAE, pixels_per_latent, read_configs
from segrefine.reference.weight_files import Model, SingleFile
from segrefine.storage import read_json_object

_HINT = f"give a folder or hub id with an {CLASSES['vae']} or an {SMALL_VAE}, such as madebyollin/taesd"


@contextmanager
def with_vae(model: Model, vae: str | Path | None) -> Iterator[Model]:
    """A context with the model in which `vae` takes the place of its image codec.

    Args:
        model: a diffusers folder.
        vae: folder or hub id of an image codec; None for the model's own.

    Raises:
        ExportError: there is no such codec, it does not fit the model, or the model is a single file.
    """
    if vae is None:
        yield model
        return
    if isinstance(model, SingleFile):
        raise ExportError(
            subject="--vae", expected="a diffusers folder or a hub id as MODEL", got="a single file",
            hint="save the model with diffusers' save_pretrained",
        )  # fmt: skip
    codec = _locate(str(vae))
    with tempfile.TemporaryDirectory(prefix="segrefine-vae-") as scratch:
        folder = Path(scratch) / Path(model).resolve().name
        folder.mkdir()
        for path in Path(model).resolve().iterdir():
            (folder / path.name).symlink_to(codec.resolve() if path.name == "vae" else path)
        _check_fit(
            read_configs(model).parts["vae"], read_json_object(codec / "config.json", ExportError, hint=_HINT), vae
        )
        read_configs(folder)
        yield folder


def _locate(vae: str) -> Path:
    """The folder of an image codec: itself, or its `vae` where it is a whole model's."""
    folder = Path(vae)
    if vae and folder.is_dir():
        return folder / "vae" if (folder / "vae").is_dir() and not (folder / "config.json").is_file() else folder
    if folder.exists() or not is_hub_id(vae):
        got = vae or "nothing"
        raise ExportError(subject="--vae", expected="the folder of an image codec", got=got, hint=_HINT)
    return fetch_folder(vae, None, ["config.json", "*.safetensors"], (), ExportError, hint=_HINT)


def _check_fit(own: Mapping[str, Any], other: Mapping[str, Any], vae: str | Path) -> None:
    """Raises ExportError where a codec's latents are not those that the denoiser takes."""
    if other.get("_class_name") not in (CLASSES["vae"], SMALL_VAE):
        raise ExportError(
            subject="--vae", expected=f"{CLASSES['vae']} or {SMALL_VAE}", got=other.get("_class_name"), hint=_HINT
        )
    sizes = [(int(config.get("latent_channels", 4)), pixels_per_latent(config)) for config in (own, other)]
    if sizes[0] != sizes[1]:
        (channels, pixels), (got_channels, got_pixels) = sizes
        raise ExportError(
            subject=f"--vae {vae}",
            expected=f"latents of {channels} channels with {pixels} pixels each, as the model has them",
            got=f"{got_channels} channels with {got_pixels} pixels each",
            hint="give an image codec that was made for this family of models",
        )
