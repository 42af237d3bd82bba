"""The loop of a training run: steps, averages, saved states, validations; on one process or many, by `accelerate`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor

from segrefine.errors import MissingDependencyError, NumericalError
from segrefine.runtime.files.output import save_image
from segrefine.train.batches import Batch, BatchMaker
from segrefine.train.model import LabelModel
from segrefine.train.options import TrainOptions
from segrefine.train.scenes import TrainingScene
from segrefine.train.state import STATE, Average, load_state, save_state
from segrefine.train.trainee import Trainee
from segrefine.train.training_log import TrainingLog
from segrefine.train.validation import Report, draw_sheet, summarise, validate

if TYPE_CHECKING:
    from typing import Self

CHECKPOINT, TRAINING, SHEET = "checkpoint", "training", "sheet.png"
_CLIP = 1.0
"""Largest norm of a gradient."""
_FLOOR = 0.02
"""Share of the peak rate that the last step has."""
_TAIL = 0.4
"""Share of the steps in which the rate falls."""


def new_accelerator(options: TrainOptions, *, cpu: bool = False) -> Accelerator:
    """The processes and devices of a run, as `accelerate config` or `accelerate launch` set them up."""
    if AcceleratorState._shared_state:  # of an earlier run in this process
        AcceleratorState._reset_state(reset_partial_state=True)
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[options.precision]
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)


def new_optimizer(options: TrainOptions, weights: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit form.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    settings: dict[str, Any] = {"lr": options.learning_rate, "betas": (0.9, 0.99), "weight_decay": 0.01}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(weights, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingDependencyError("adamw8bit needs bitsandbytes, which is not installed",
                                     hint="pip install bitsandbytes, or use --optimizer adamw") from error  # fmt: skip
    return AdamW8bit(weights, **settings)  # type: ignore[no-any-return]


def rate_at(step: int, options: TrainOptions) -> float:
    """The learning rate of a step: it rises, stays, and falls as a cosine."""
    warm = min(1.0, (step + 1) / max(1.0, options.warm_up * options.steps))
    tail = max(0.0, step / options.steps - (1 - _TAIL)) / _TAIL
    return float(options.learning_rate * warm * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + np.cos(np.pi * tail))))


class StopRequest:
    """A context in which Ctrl-C and SIGTERM are noted, and not raised: a step is never left half-done.

    Attributes:
        came: whether one of them came. A second one is raised at once.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Listen; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore what listened before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


@dataclass(kw_only=True)
class Trainer:
    """A training run that can be stopped at any time, and continues exactly from there.

    Attributes:
        options: the run's options.
        model: the model.
        trainee: its networks with their loss.
        batches: makes the batch of each step.
        held_out: scenes for validation.
        classes: names of all classes.
        output: folder of the run.
        accelerator: the processes and devices.
        tell: takes the line of progress.
    """

    options: TrainOptions
    model: LabelModel
    trainee: Trainee
    batches: BatchMaker
    held_out: Sequence[TrainingScene]
    classes: Sequence[str]
    output: Path
    accelerator: Accelerator
    tell: Callable[[str, float | None], None]
    done: int = 0
    best: float = -1.0
    report: Report | None = field(default=None)

    def __post_init__(self) -> None:
        """Build the optimizer, and load the state of a run that was stopped."""
        self.folder = self.output / TRAINING
        if self.accelerator.device.type == "cpu":  # small convolutions are three times as fast with channels last
            self.trainee.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = self.trainee.trained()
        optimizer = new_optimizer(self.options, list(trained.values()))
        self._wrapped, self._optimizer = self.accelerator.prepare(self.trainee, optimizer)
        self._trained = self.trainee.trained()
        self._average = Average(self._trained, self.options.ema)
        self._journal = TrainingLog(self.folder, self.options.steps, self.tell)
        if state := load_state(self.folder / STATE, self.accelerator.device):
            self._restore(state)

    def run(self) -> None:
        """Train until all steps are done.

        Ctrl-C and SIGTERM end the run after the step that is being computed, with its state saved.

        Raises:
            KeyboardInterrupt: the run was asked to stop.
            NumericalError: the loss is no number any more.
            OutputError: the disk is full.
        """
        saved = judged = time.monotonic()
        with ThreadPoolExecutor(max(1, self.options.workers)) as pool, StopRequest() as stop:
            ahead = self._prefetch(pool, self.done)
            while self.done < self.options.steps:
                following = self._prefetch(pool, self.done + 1)
                self._step(ahead)
                ahead = following
                now = time.monotonic()
                last, stopped = self.done == self.options.steps, self._agree(stop.came)
                if self._agree(last or now - judged > 60 * self.options.validate_minutes):
                    self.validate()
                    judged = time.monotonic()
                if self._agree(last or stopped or now - saved > 60 * self.options.save_minutes):
                    self.save()
                    saved = time.monotonic()
                if stopped and not last:
                    raise KeyboardInterrupt

    def _agree(self, wish: bool) -> bool:
        """Return the first process's decision; the clocks of several differ."""
        if self.accelerator.num_processes == 1:
            return wish
        flag = torch.tensor([int(wish)], device=self.accelerator.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag.item())

    def _prefetch(self, pool: ThreadPoolExecutor, step: int) -> list[Future[Batch]]:
        """The parts of a step's batch that this process computes, made by other threads."""
        if step >= self.options.steps:
            return []
        own, parts = self.options.accumulate, self.options.accumulate * self.accelerator.num_processes
        first = self.accelerator.process_index * own
        return [pool.submit(self.batches.make, step, first + part, parts) for part in range(own)]

    def _step(self, parts: Sequence[Future[Batch]]) -> None:
        rate = rate_at(self.done, self.options)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._wrapped.train()
        self._optimizer.zero_grad()
        sums: dict[str, list[Tensor]] = {}
        for number, part in enumerate(parts):
            batch = part.result().to(self.accelerator.device)
            last = number + 1 == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self._wrapped), self.accelerator.autocast():
                losses = self._wrapped(batch, self.done / self.options.steps)
                self.accelerator.backward(losses["loss"] / len(parts))
            for name, value in losses.items():
                sums.setdefault(name, []).append(value.detach())
        self.accelerator.clip_grad_norm_(list(self._trained.values()), _CLIP)
        self._optimizer.step()
        self._average.update(self.done)
        self.done += 1
        self._note(sums, rate)

    def _note(self, sums: Mapping[str, Sequence[Tensor]], rate: float) -> None:
        values = {name: torch.stack(list(each)).mean() for name, each in sums.items()}
        if self.accelerator.num_processes > 1:
            values["loss"] = self.accelerator.reduce(values["loss"], "mean")
        losses = {name: float(value) for name, value in values.items()}
        if not np.isfinite(losses["loss"]):
            raise NumericalError(f"step {self.done}: the loss is {losses['loss']}",
                                 hint="use a lower --learning-rate, or --precision bf16 or fp32")  # fmt: skip
        if self.accelerator.is_main_process:
            self._journal.step(self.done, losses, rate)

    def validate(self) -> None:
        """Judge the averaged weights, and keep them as the checkpoint where they are the best so far."""
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        self._wrapped.eval()
        with self._average.applied() if self.options.ema else nullcontext():
            found = validate(self.model, self.held_out, own, processes, self.classes)
            found = gather_object(found) if processes > 1 else found
            report = summarise(found)
            better = report.miou > self.best or not self.held_out
            self.report = report
            if self.accelerator.is_main_process:
                self._journal.note("validation", self.done, {**report.to_dict(), "best": better})
                if better:
                    self.best = report.miou
                    self.model.write(self.output / CHECKPOINT)
                    if self.held_out:
                        save_image(self.folder / SHEET, draw_sheet(self.model, self.held_out))
        self.best = max(self.best, report.miou)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the state from which the run can continue."""
        if self.accelerator.is_main_process:
            save_state(self.folder / STATE, self._state())
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "weights": {name: weight.detach() for name, weight in self._trained.items()},
            "average": self._average.mean,
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "step": self.done,
            "best": self.best,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(state["weights"][name])
        self._average.mean = dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.done, self.best = int(state["step"]), float(state["best"])
        if self.accelerator.is_main_process:
            self._journal.drop_after(self.done)
