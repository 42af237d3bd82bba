"""Reports of a run: JSON lines, TensorBoard if it is installed, and a line of progress."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segrefine.storage import output_errors

LOG = "log.jsonl"
Tell = Callable[[str, float | None], None]
_WINDOW = 50
"""Steps whose mean loss and speed are shown."""


class TrainingLog:
    """Writes the reports of a run.

    Args:
        folder: where they go.
        steps: steps of the whole run.
        tell: takes the line of progress, and the share that is done.
    """

    def __init__(self, folder: Path, steps: int, tell: Tell) -> None:
        self._file, self._steps, self._tell = folder / LOG, steps, tell
        self._times: deque[float] = deque([time.monotonic()], maxlen=_WINDOW + 1)
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._board = _tensorboard(folder / "tensorboard")

    def drop_after(self, step: int) -> None:
        """Remove the lines of steps that a killed run did and the saved state does not know."""
        if not self._file.is_file():
            return
        lines = self._file.read_text("utf-8").splitlines()
        whole = [line for line in lines if line.startswith("{") and line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        with output_errors(self._file):
            self._file.write_text("".join(line + "\n" for line in kept), "utf-8")

    def step(self, step: int, losses: Mapping[str, float], rate: float) -> None:
        """Note a step that is done."""
        self._times.append(time.monotonic())
        self._losses.append(losses["loss"])
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        mean = sum(self._losses) / len(self._losses)
        left = _duration(pace * (self._steps - step))
        line = f"step {step} of {self._steps}, loss {mean:.3f}, {pace:.2f} s a step, {left} left"
        self._tell(line, step / self._steps)
        if step % 10 == 0 or step == self._steps:
            self.note("train", step, {**losses, "mean_loss": mean, "learning_rate": rate, "seconds_per_step": pace})

    def note(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a JSON line, and its numbers to TensorBoard."""
        line = json.dumps({"event": event, "step": step, "time": round(time.time(), 1), **values})
        with output_errors(self._file), self._file.open("a", encoding="utf-8") as opened:
            opened.write(line + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{event}/{name}", value, step)
            self._board.flush()

    def say(self, text: str) -> None:
        """Tell a line without a share."""
        self._tell(text, None)


def _tensorboard(folder: Path) -> Any | None:
    """TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
