"""Training state on disk: written under a temporary name and renamed, so that a killed run can resume."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def save_state(file: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` (tensors, numbers, dicts of them) to `file`, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(file)


def load_state(file: Path) -> dict[str, Any] | None:
    """The state in `file`, or None where a run has not got that far."""
    return torch.load(file, weights_only=True) if file.exists() else None


class WeightAverage:
    """An exponential moving average of modules' weights, which is what gets evaluated and shipped.

    Args:
        modules: the modules that are trained, and which `copies` mirror.
        copies: same architecture; hold the average.
        decay: weight of the past at every step, approached as (1 + step) / (10 + step).
    """

    def __init__(self, modules: Iterable[nn.Module], copies: Iterable[nn.Module], decay: float) -> None:
        self._live: list[Tensor] = [p for m in modules for p in m.parameters()]
        self._mean: list[Tensor] = [p.requires_grad_(False) for m in copies for p in m.eval().parameters()]
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the live weights."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, [p.detach() for p in self._live], weight)
