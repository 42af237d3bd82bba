"""Writing fitted settings and a fitted guard into a bundle, and saying what they were fitted on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segrefine.assets import SHIPPED_BUNDLES
from segrefine.bundle import MANIFEST, Bundle, Manifest
from segrefine.errors import BundleError
from segrefine.runtime.files.output import write_whole
from segrefine.runtime.guard import GUARD, Guard
from segrefine.settings import G4SegSettings
from segrefine.storage import FileRecord, locked, output_errors, sync

DENOISER = "unet"


def write_fit(bundle_path: str | Path, settings: G4SegSettings, guard: Guard) -> Bundle:
    """Write settings and guard into a bundle that refines masks; nothing else in it changes.

    The bundle is whole at every moment. A process that is killed in the middle leaves the bundle as it was, or, where
    it had a guard, without a guard.

    Args:
        bundle_path: folder of the bundle.
        settings: the bundle's settings from now on.
        guard: what was fitted to the bundle's model with these settings; `about` says on what.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: there is no bundle, or it is for the other method.
        OutputError: the folder cannot be written to.
    """
    path = Path(bundle_path)
    Bundle.open(path).check_method("g4seg")
    with output_errors(path), locked(path):
        manifest = Bundle.open(path).manifest
        others = {name: record for name, record in manifest.files.items() if name != GUARD}
        if GUARD in manifest.files:  # a guard that the manifest does not list is not read, so replacing it is safe
            _write_manifest(path, replace(manifest, files=others))
        _write_json(path / GUARD, guard.to_dict())
        records = dict(sorted({**others, GUARD: FileRecord.of(path / GUARD)}.items()))
        _write_manifest(path, replace(manifest, settings=settings.to_dict(), files=records))
    return Bundle.open(path)


def hash_denoiser(bundle: Bundle) -> str:
    """SHA-256, in hexadecimal, over the recorded hashes of the denoiser's graph and its weights."""
    hashes = [bundle.manifest.files[name].sha256 for name in bundle.graph_files(DENOISER)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def check_writable(bundle: Bundle) -> None:
    """Check that a fit can be written into a bundle, before the work is done.

    Raises:
        BundleError: the bundle ships with segrefine, or its folder cannot be written to.
    """
    if bundle.path.resolve() in {path.resolve() for path in SHIPPED_BUNDLES.values()}:
        message = f"{bundle.path} ships with segrefine, and every project here uses it"
        raise BundleError(message, hint="copy the folder, and give the copy with --bundle")
    if not os.access(bundle.path, os.W_OK):
        raise BundleError(f"{bundle.path} cannot be written to", hint="copy the folder, or change its permissions")


def _write_manifest(path: Path, manifest: Manifest) -> None:
    _write_json(path / MANIFEST, manifest.to_dict())


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file as a whole, and its name in its folder, with the permissions of the other files there."""
    mode = (file.parent / MANIFEST).stat().st_mode & 0o777
    write_whole(file, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
    file.chmod(mode)
    sync(file.parent)
