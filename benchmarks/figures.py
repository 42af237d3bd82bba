"""Pictures of an evaluation: bars by kind, and a contact sheet of single cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.evaluate import CorruptedCase, Mask, MethodOutcome, Summary, iou, keep_coarse


def plot_kinds(summaries: Mapping[str, Summary], path: Path) -> None:
    """Write a bar for the mean IoU of every kind and method."""
    kinds = list(next(iter(summaries.values())).kinds)
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=color_sequences["tab10" if len(summaries) <= 10 else "tab20"])
    width = 0.84 / len(summaries)
    for index, (name, summary) in enumerate(summaries.items()):
        left = np.arange(len(kinds)) - 0.42 + index * width
        axes.bar(left, list(summary.kinds.values()), width, align="edge", label=name)
    axes.set(xticks=np.arange(len(kinds)), xticklabels=kinds, ylabel="mean IoU", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def plot_times(seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write horizontal bars of seconds, one panel for each job; contestants of ours, in colour, come last."""
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, (title, times) in zip(figure.subplots(1, len(seconds), squeeze=False)[0], seconds.items(), strict=True):
        colors = ["#2a78d6" if name.startswith("segrefine") else "#b8b8b8" for name in times]
        bars = axes.barh(list(times), list(times.values()), color=colors)
        axes.bar_label(bars, fmt="%.3g s", padding=3)
        axes.set(title=title, xlim=(0, 1.2 * max(times.values())))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def contact_sheet(
    cases: Sequence[CorruptedCase], outcomes: Mapping[str, MethodOutcome], method: str, path: Path, *, rows: int = 3
) -> None:
    """Write the best, worst and typical cases of one method, by IoU gained over the coarse mask.

    Args:
        cases: The cases evaluated.
        outcomes: One column each, after the image, the truth and the coarse mask.
        method: The key of `outcomes` that chooses the cases.
        path: Picture to write, its format by suffix.
        rows: How many best, worst and typical cases.
    """
    before = np.array([iou(keep_coarse(case), case.truth) for case in cases])
    chosen = pick_cases(outcomes[method].iou - before, rows)
    shown = [name for name in outcomes if name != "coarse"]
    columns = 3 + len(shown)
    figure = Figure(figsize=(1.5 * columns, 1.75 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    for line, (index, why) in zip(grid, chosen, strict=True):
        case = cases[index]
        _show(line[0], case, np.ones_like(case.truth), f"{why}: {case.label}, {case.kind}")
        _show(line[1], case, case.truth, "truth")
        _show(line[2], case, keep_coarse(case), f"coarse {before[index]:.2f}")
        for axes, name in zip(line[3:], shown, strict=True):
            _show(axes, case, outcomes[name].masks[index], f"{name} {outcomes[name].iou[index]:.2f}")
    figure.savefig(path, dpi=100)


def pick_cases(gain: NDArray[np.float64], count: int) -> list[tuple[int, str]]:
    """Indices of the cases of most, least and middling gain, each once, with a word for why."""
    order = np.argsort(-gain, kind="stable")
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    groups = {"best": order[:count], "worst": order[::-1][:count], "typical": order[middle : middle + count]}
    chosen: dict[int, str] = {}
    for why, indices in groups.items():
        for index in indices:
            chosen.setdefault(int(index), why)
    return list(chosen.items())


def _show(axes: Axes, case: CorruptedCase, mask: Mask, caption: str) -> None:
    """Draw the image, dark outside the mask."""
    axes.imshow((case.image * np.where(mask, 1, 0.25)[..., None]).astype(np.uint8), interpolation="nearest")
    axes.set_title(caption, fontsize=7)
    axes.set_axis_off()
