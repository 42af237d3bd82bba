"""Options that the results of a run depend on. The output folder notes them; other options are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segrefine import __version__
from segrefine.batch.worker import Job
from segrefine.bundle import MANIFEST, Bundle
from segrefine.datasets.coco_file import images_of
from segrefine.engines import choose_backend
from segrefine.errors import OutputError
from segrefine.runtime.files.output import write_whole
from segrefine.settings import BUNDLE_SETTINGS
from segrefine.storage import FileRecord, output_errors

OPTIONS = "options.json"
_SHOWN = 12
"""Characters of a hash in messages."""


def describe_options(job: Job) -> dict[str, Any]:
    """All that results depend on, as JSON values; nothing of how many processes make them, and where.

    A bundle counts by its content, wherever it lies; a data set by its place and its notation. What the data set holds
    is not looked at, for what is wrong with it may be mended between two runs.

    Raises:
        BundleError: there is no bundle.
        MaskError: there is no data set.
    """
    engines, dataset = job.setup.engines, job.open_dataset()
    bundle, is_folder = Bundle.open(job.setup.bundle), job.source.is_dir()
    return {
        "source": os.path.realpath(job.source),
        "images": None if is_folder else os.path.realpath(job.images or images_of(job.source)),
        "notation": dataset.title,
        "bundle": FileRecord.of(bundle.path / MANIFEST).sha256,  # it lists the hashes of all other files
        "backend": choose_backend(engines.backend, bundle.path, engines.device, engines.precision),
        "precision": engines.precision,
        "resolution": engines.resolution,
        "settings": _changed_settings(bundle, job.setup.settings),
        **{"seed": job.seed, "guard": job.guard, "crop": job.crop},
        **({"cutout": True} if job.cutout else {}),
        **({"alone": True} if job.alone else {}),
        **job.reading.given,  # so that outputs of versions with fewer options stay resumable
    }


def _changed_settings(bundle: Bundle, wanted: Any) -> dict[str, Any] | None:
    """The settings that are not the bundle's own; None where all are."""
    own = BUNDLE_SETTINGS[bundle.manifest.method].from_dict(bundle.manifest.settings)
    theirs = own.to_dict()
    changed = {name: value for name, value in own.change(wanted).to_dict().items() if value != theirs[name]}
    return changed or None


def agree_on_options(job: Job, options: Mapping[str, Any], *, begun: bool) -> None:
    """Notes the options in `job.output`, or checks that those which are noted there are the same.

    Args:
        job: what is to be done.
        options: what its results depend on.
        begun: whether results are there already.

    Raises:
        OutputError: other options are noted, or none though results are there; or there is no place.
    """
    file = job.output / OPTIONS
    if not file.is_file():
        if begun:
            message = f"{job.output} holds results, but no {OPTIONS} with their options"
            raise OutputError(message, hint="choose a new folder")
        told = {"segrefine": __version__, "bundle": str(job.setup.bundle)}
        values = {"begun_with": told, "options": options}
        write_whole(file, (json.dumps(values, indent=2) + "\n").encode())
        return
    noted, wanted = dict(_flatten(_read(file))), dict(_flatten(json.loads(json.dumps(options))))
    changed = [name for name in {**noted, **wanted} if noted.get(name) != wanted.get(name)]
    if changed:
        words = (f"{name} was {_show(noted.get(name))} and is {_show(wanted.get(name))} now" for name in changed)
        moved = f'; was the data set moved? Then correct "source" in {file}' if "source" in changed else ""
        hint = f"take the options that {file} lists, or choose another folder for a fresh run{moved}"
        raise OutputError(f"{job.output} holds results of other options: {'; '.join(words)}", hint=hint)


def _read(file: Path) -> dict[str, Any]:
    with output_errors(file):
        text = file.read_text(encoding="utf-8", errors="replace")
    try:
        options = json.loads(text)["options"]
    except (ValueError, TypeError, KeyError) as error:
        message = f"{file} does not tell the options of the run: {error}"
        raise OutputError(message, hint="repair it, or choose a new folder") from error
    return dict(options)


def _flatten(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options, those of the settings by themselves."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _show(value: Any) -> str:
    words = {True: "on", False: "off", None: "the default"}
    if isinstance(value, bool | None):
        return words[value]
    text = str(value)
    is_hash = len(text) == 64 and not os.path.isabs(text)
    return text[:_SHOWN] if is_hash else text
