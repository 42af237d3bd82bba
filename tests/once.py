"""What several tests read and none changes: made once in a run, by the process that asks first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from segrefine.storage import locked


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of a name, shared by all processes of a run; those that ask while it is being made wait for it.

    What a killed process left half made is under another name, and the next process makes it anew.

    Args:
        factory: of the run's temporary folders.
        name: says all that decides what the folder holds.
        make: fills a folder that does not exist.
    """
    own = factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once" / name
    place.mkdir(parents=True, exist_ok=True)
    made, partial = place / "made", place / "partial"
    with locked(place):
        if not made.exists():
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(made)
    return made
