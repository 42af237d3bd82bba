"""The loop that trains a demo model's networks: schedule, average, log, state on disk."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from training.demo.checkpoints import WeightAverage, load_state, save_state

Compiled = Callable[..., tuple[Tensor]]
"""What `torch.compile` makes of a network, called with `return_dict=False`."""

SAVE_EVERY, GATE_EVERY = 250, 1000


@dataclass(kw_only=True)
class TrainingLoop:
    """Optimises networks together, and takes up a run that was cut off.

    Attributes:
        networks: what is trained, by name.
        step: the loss of one batch, drawn with the generator.
        gate: a line about how good the averaged networks are.
        batch: samples of one step.
        learning_rate: of AdamW, before it falls.
        seed: of the batches.
        state_file: where the state is kept between runs.
        decay: weight of the past in the moving averages.
        log_every: steps between two lines of progress.
        save_every: steps between two writes of the state file.
        gate_every: steps between two gates.
        averages: the moving averages of `networks`: what is judged and shipped.
        samples: seen so far, over all runs that shared the state file.
    """

    networks: Mapping[str, nn.Module]
    step: Callable[[Generator], Tensor]
    gate: Callable[[], str]
    batch: int
    learning_rate: float
    seed: int
    state_file: Path
    decay: float = 0.999
    log_every: int = 100
    save_every: int = SAVE_EVERY
    gate_every: int = GATE_EVERY

    def __post_init__(self) -> None:
        self.averages: dict[str, Any] = {name: copy.deepcopy(network) for name, network in self.networks.items()}
        self.samples = 0
        self._weights = [weight for network in self.networks.values() for weight in network.parameters()]
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        averages = {f"{name}_average": network for name, network in self.averages.items()}
        self._parts: dict[str, Any] = {**self.networks, **averages, "optimiser": self._optimiser}
        if state := load_state(self.state_file):
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.samples = state["samples"]

    def run(self, total: int, log: Callable[[str], None]) -> None:
        """Trains until `total` samples have been seen; the learning rate falls over the last 40 % of them.

        Args:
            total: samples, counted over all runs that shared the state file.
            log: takes a line of progress.
        """
        average = WeightAverage(self.networks.values(), self.averages.values(), self.decay)
        began, first, losses = time.time(), self.samples, []
        while self.samples < total:
            step = self.samples // self.batch
            tail = max(0.0, self.samples / total - 0.6) / 0.4
            for group in self._optimiser.param_groups:
                warm, cosine = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * tail))
                group["lr"] = self.learning_rate * warm * (0.02 + 0.98 * cosine)
            losses.append(self._descend(self.step(np.random.default_rng([self.seed, step]))))
            average.update(step)
            self.samples += self.batch
            if (step + 1) % self.log_every == 0:
                rate = (self.samples - first) / (time.time() - began)
                log(f"{self.samples} samples, loss {np.mean(losses[-self.log_every :]):.4f}, {rate:.1f} samples/s")
            if (step + 1) % self.save_every == 0:
                self.save()
            if (step + 1) % self.gate_every == 0 or self.samples >= total:
                log(f"GATE {self.samples} samples: {self.gate()}")
        self.save()

    def save(self) -> None:
        """Writes the state file."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        save_state(self.state_file, state | {"samples": self.samples})

    def _descend(self, loss: Tensor) -> float:
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        return float(loss.detach())
