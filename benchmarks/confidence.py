"""Reliability of a mask's confidence, and the trade-off of the guard's threshold.

    python -m benchmarks.confidence DATA                 emoji test scenes, and photographs of DATA (VOC's layout);
                                                         writes benchmarks/results/confidence.*
    python -m benchmarks.confidence DATA --parts spoilt  one part; the others' figures are kept

Photographs are refined as a model that knows nothing refines them: the edge step and the free guard alone. Parts are
"emoji", "spoilt" (true masks of photographs) and "network" (the masks in DATA/coarse). Confidence is compared with what
became of the mask that it is of, whether the guard accepts that mask or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.evaluate import WORSE
from benchmarks.guard import calibration_error
from benchmarks.photographs import Photograph, read_photographs
from benchmarks.quality import TEST_SEED
from benchmarks.report import markdown_table, read_result, write_result
from benchmarks.switches import read_emoji
from segrefine.assets import demo_bundle
from segrefine.runtime.guard import judge_changes
from segrefine.runtime.pipeline import Refiner

PARTS = {
    "emoji": "emoji scenes, guard of the demo bundle",
    "spoilt": "photographs, spoilt true masks, free guard",
    "network": "photographs, masks of a network, free guard",
}
EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
THRESHOLDS = (0.0, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 1.01)
KNOWS_NOTHING = {"text_timesteps": [400], "worth_range": [1e6, 1e7]}
"""Settings under which no evidence is worth anything, at few passes."""
Numbers = NDArray[np.float64]


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--parts", multiple=True, type=click.Choice(list(PARTS)), default=list(PARTS), show_default=True)
@click.option("--limit", default=150, show_default=True, help="Emoji masks; photographs of each other part.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(data: Path, parts: Sequence[str], limit: int, threads: int, cache: Path) -> None:
    """Compare confidences with outcomes."""
    found: dict[str, Any] = read_result("confidence").get("masks", {})
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        for part in parts:
            cases = _read_cases(part, data, limit, cache)
            found[part] = [_judge(refiner, case, part) for case in tqdm(cases, desc=part)]
            ordered = {name: found[name] for name in PARTS if name in found}
            write_result("confidence", {"masks": ordered}, describe(ordered))
    click.echo(describe(found))


def _read_cases(part: str, data: Path, limit: int, cache: Path) -> Iterable[Photograph]:
    if part == "emoji":
        return read_emoji(limit, cache, first=TEST_SEED)
    return read_photographs(data, limit, coarse=part == "network", kinds=1)


def _judge(refiner: Refiner, case: Photograph, part: str) -> dict[str, float]:
    """Return the guard's verdict on one mask, and its outcome."""
    settings = None if part == "emoji" else KNOWS_NOTHING
    result = refiner(case.image, case.coarse, case.label, crop=False, guard=False, settings=settings)
    verdict = judge_changes(case.image, result, refiner.guard)
    before = case.iou(case.coarse > 0.5)
    return {
        "confidence": round(verdict.confidence, 4),
        "threshold": round(verdict.threshold, 4),
        "accepted": float(verdict.trusted),
        "before": round(before, 4),
        "gain": round(case.iou(verdict.judged.mask) - before, 4),
    }


def describe(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The page."""
    lines = [
        "# Confidence",
        "A mask's confidence is the probability that refining, less what the guard undid, has not cost it more than "
        f"{WORSE} of IoU. A mask below the threshold is left coarse.",
    ]
    for part, masks in found.items():
        columns = {name: np.array([mask[name] for mask in masks]) for name in masks[0]}
        confidence, gain = columns["confidence"], columns["gain"]
        error = calibration_error(confidence, gain >= -WORSE)
        lines += [
            f"## {PARTS[part]}",
            f"{len(masks)} masks, mean IoU {columns['before'].mean():.3f}. Threshold {_range(columns['threshold'])}: "
            f"{columns['accepted'].mean():.1%} accepted. Expected calibration error (ten bins): {error:.3f}.",
            markdown_table(["confidence", "masks", "mean", "not made worse", "better"], _reliability(confidence, gain)),
            markdown_table(["accepted from", "accepted", "gain", "made worse"], _trade(confidence, gain)),
        ]
    return "\n\n".join(lines)


def _range(values: Numbers) -> str:
    low, high = values.min(), values.max()
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"


def _reliability(confidence: Numbers, gain: Numbers) -> list[list[str]]:
    """Return for each range of confidence: number of masks, mean confidence, and outcome."""
    rows = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        inside = (confidence >= low) & ((confidence < high) | (high == EDGES[-1]))
        if inside.any():
            kept, better = (gain[inside] >= -WORSE).mean(), (gain[inside] > WORSE).mean()
            name, mean = f"{low:g} to {high:g}", f"{confidence[inside].mean():.3f}"
            rows.append([name, str(inside.sum()), mean, f"{kept:.1%}", f"{better:.1%}"])
    return rows


def _trade(confidence: Numbers, gain: Numbers) -> list[list[str]]:
    """Return the outcome of several thresholds, over all masks."""
    rows = []
    for threshold in THRESHOLDS:
        accepted = confidence >= threshold
        kept = np.where(accepted, gain, 0)
        rows.append(
            [f"{threshold:g}", f"{accepted.mean():.1%}", f"{kept.mean():+.4f}", f"{(kept < -WORSE).mean():.1%}"]
        )
    return rows


if __name__ == "__main__":
    main()
