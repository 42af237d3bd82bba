"""The state of a run on disk: weights, averages, optimizer and step. A killed run continues from it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrefine.errors import OutputError
from segrefine.storage import output_errors

STATE = "state.pt"


class Average:
    """An exponential moving average of weights: what is judged and kept.

    Args:
        weights: the weights by name.
        decay: weight of the past at every step, approached as (1 + step) / (10 + step); 0 keeps no average.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self._live, self._decay = weights, decay
        self.mean: dict[str, Tensor] = copy.deepcopy({name: weight.detach() for name, weight in weights.items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the live weights."""
        keep = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [weight.detach() for weight in self._live.values()], 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the networks have the averaged weights."""
        live = {name: weight.data for name, weight in self._live.items()}
        for name, weight in self._live.items():
            weight.data = self.mean[name]
        try:
            yield
        finally:
            for name, weight in self._live.items():
                weight.data = live[name]


def save_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all: the old one stays until the new one is on the disk.

    Raises:
        OutputError: the disk is full, or the place cannot be written to.
    """
    partial = file.with_suffix(".partial")
    try:
        with output_errors(file), partial.open("wb") as opened:
            torch.save(dict(state), opened)
            opened.flush()
            os.fsync(opened.fileno())
    except RuntimeError as error:  # torch's writer wraps the system's refusal
        hint = "free some space; --resume continues from the last state"
        raise OutputError(f"cannot write {file}: {error}", hint=hint) from error
    finally:
        if partial.exists() and partial.stat().st_size == 0:
            partial.unlink()
    partial.replace(file)


def load_state(file: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in a file; None where a run has not got that far.

    Raises:
        OutputError: the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        return torch.load(file, map_location=device, weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise OutputError(f"{file} is damaged: {error}", hint="remove it to start the run again") from error
