"""Folders from the model hub, or from its cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segrefine.errors import MissingDependencyError, SegrefineError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form OWNER/NAME."""
    return _HUB_ID.fullmatch(name) is not None


def fetch_folder(
    name: str,
    revision: str | None,
    wanted: Sequence[str] | None,
    unwanted: Sequence[str],
    error_class: type[SegrefineError],
    *,
    hint: str,
) -> Path:
    """Fetch files of a repository into the hub's cache, unless they are there, and return the cached folder.

    Args:
        name: the hub id.
        revision: branch, tag or commit; None is the newest.
        wanted: patterns of the files to fetch; None is all.
        unwanted: patterns of files to leave out.
        error_class: of the error if they cannot be fetched.
        hint: what to give in the place of `name`, for that error.

    Raises:
        SegrefineError: the files cannot be fetched; of the class that is given.
        MissingDependencyError: huggingface-hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        message = "fetching a model takes huggingface-hub, which is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[hub]"') from error
    disable_progress_bars()  # they know nothing of ours
    patterns = None if wanted is None else list(wanted)
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=list(unwanted))
    except LocalEntryNotFoundError as error:
        message = f"there is no folder {name}, and the hub's {name} is not in the cache and cannot be fetched"
        raise error_class(message, hint=f"check the network and HF_HUB_OFFLINE; or {hint}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise error_class(f"cannot fetch {name}: {reason}", hint="check the id, the revision and HF_TOKEN") from error
    return Path(folder)
