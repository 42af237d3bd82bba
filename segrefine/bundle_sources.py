"""Sources of a bundle: a folder, a bundle that ships by its name, or a repository of the model hub."""

from __future__ import annotations

from pathlib import Path

from segrefine.assets import SHIPPED_BUNDLES
from segrefine.bundle import MANIFEST
from segrefine.errors import BundleError
from segrefine.hub import fetch_folder, is_hub_id

_HINT = "give a folder that `segrefine export` wrote, `photo`, `photo-gs`, or a hub id such as OWNER/NAME"
_UNWANTED = ("engines/*",)
"""Engines are executable code for one machine: they are never fetched."""


def find_bundle(bundle: str | Path, revision: str | None = None) -> Path:
    """The folder of a bundle, fetched from the model hub where it is not on this machine.

    Args:
        bundle: a folder; "photo" or "photo-gs"; or a hub id `OWNER/NAME`, which is fetched unless it is in the hub's
            cache. HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured.
        revision: branch, tag or commit of a hub id; None is the newest.

    Raises:
        BundleError: there is no such bundle, or it cannot be fetched.
        MissingDependencyError: huggingface-hub is not installed.
    """
    there = local_bundle(bundle)
    if there.is_dir():
        if revision is not None:
            raise BundleError(f"a revision is for hub ids, and {bundle} is a folder", hint="leave the revision out")
        return there
    name = str(bundle)
    if not is_hub_id(name):
        raise BundleError(f"there is no bundle {name!r}: neither a folder nor a hub id", hint=_HINT)
    folder = fetch_folder(name, revision, [MANIFEST], (), BundleError, hint=_HINT)
    if not (folder / MANIFEST).is_file():
        message = f"the hub's {name} is not a bundle: it has no {MANIFEST}"
        raise BundleError(message, hint=f"export it first: segrefine export {name} BUNDLE")
    return fetch_folder(name, folder.name, None, _UNWANTED, BundleError, hint=_HINT)


def local_bundle(bundle: str | Path) -> Path:
    """The folder that a path or the word of a bundle that ships stands for; it need not exist."""
    return SHIPPED_BUNDLES.get(bundle, Path(bundle)) if isinstance(bundle, str) else bundle
