"""The guard on emoji scenes: how many masks it keeps from being made worse, and what of the gain it gives up.

    python -m benchmarks.guard                 the test scenes; writes benchmarks/results/guard.*
    python -m benchmarks.guard --validation    other scenes; writes nothing

`python -m training.guard` fits the guards that ship.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.evaluate import WORSE, CorruptedCase
from benchmarks.quality import SEMANTIC, TEST_SEED, VALIDATION_SEED, cases_of
from benchmarks.report import estimate, markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.runtime.guard import guard_changes
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.tuning.guard_fit import EVERY
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

Array = NDArray[np.float64]


@click.command()
@click.option("--scenes", default=200, show_default=True, help="Scenes; each gives up to four masks.")
@click.option("--validation", is_flag=True, help="Use the validation scenes and write nothing.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, validation: bool, threads: int, cache: Path) -> None:
    """Measure the guard."""
    cases, plain, free, guarded = [], [], [], []
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        for case in _cases(scenes, VALIDATION_SEED if validation else TEST_SEED, cache):
            result = refiner(case.image, case.coarse, case.label, crop=False, guard=False)
            cases.append(case)
            plain.append(result)
            free.append(guard_changes(case.image, result))
            guarded.append(guard_changes(case.image, result, refiner.guard))
    rows = [
        _row(name, cases, results)
        for name, results in (("refined", plain), ("free guard", free), ("default: guard of the bundle", guarded))
    ]
    gain, worse, semantic = _gains(cases, guarded)
    bars = [
        ["gain over the coarse mask", ">= +0.18", f"{gain:+.4f}", "yes" if gain >= 0.18 else "no"],
        ["masks made worse by more than 0.02", "<= 3 %", f"{worse:.1%}", "yes" if worse <= 0.03 else "no"],
    ]
    errors = _calibration(cases, guarded)
    worth = np.array([result.evidence_worth or 0.0 for result in plain])
    markdown = "\n\n".join(
        [
            "# The guard on emoji scenes",
            f"{len(cases)} corrupted masks of {scenes} held-out scenes. IoU gained over the coarse mask.",
            markdown_table(["masks", "gain", "made worse", "gain, semantic kinds", "left coarse"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
            f"Evidence was worth nothing for {(worth == 0).mean():.1%} of the masks, and everything for "
            f"{(worth == 1).mean():.1%}. Expected calibration error (ten bins): {errors['masks']:.3f} of a mask's "
            f"confidence, {errors['pixels']:.3f} of a pixel's.",
        ]
    )
    click.echo(markdown)
    if not validation:
        data = {"gain": gain, "worse": worse, "semantic": semantic, "bars": bars, "calibration_error": errors}
        write_result("guard", data | {"scenes": scenes, "masks": len(cases)}, markdown)


def _cases(count: int, first: int, cache: Path) -> Iterator[CorruptedCase]:
    sources = load_sources(cache, held_out=True)
    for number in tqdm(range(first, first + count), desc="scenes"):
        yield from cases_of(compose_scene(np.random.default_rng(number), sources), number)


def _gains(cases: list[CorruptedCase], results: list[Refinement]) -> tuple[float, float, float]:
    """Mean gain in IoU, share of the masks made worse, and mean gain over the semantic kinds."""
    gains = np.array([_gain(case, result.mask) for case, result in zip(cases, results, strict=True)])
    semantic = np.array([case.kind in SEMANTIC for case in cases])
    return float(gains.mean()), float((gains < -WORSE).mean()), float(gains[semantic].mean())


def _gain(case: CorruptedCase, mask: NDArray[np.bool_]) -> float:
    return iou(mask, case.truth) - iou(case.coarse > 0.5, case.truth)


def _row(name: str, cases: list[CorruptedCase], results: list[Refinement]) -> list[str]:
    gains = [_gain(case, result.mask) for case, result in zip(cases, results, strict=True)]
    _, worse, semantic = _gains(cases, results)
    kept = np.mean([result.kept_coarse for result in results])
    return [
        name,
        str(estimate(gains, [case.scene for case in cases])),
        f"{worse:.1%}",
        f"{semantic:+.3f}",
        f"{kept:.1%}",
    ]


def _calibration(cases: list[CorruptedCase], results: list[Refinement]) -> dict[str, float]:
    """Calibration errors of the confidences of masks and of pixels."""
    confidence = np.array([result.confidence for result in results], np.float64)
    safe = np.array([_gain(case, result.mask) >= -WORSE for case, result in zip(cases, results, strict=True)])
    per_pixel = [each for result in results if (each := result.pixel_confidence) is not None]
    pixels = np.concatenate([each.ravel()[::EVERY] for each in per_pixel]).astype(np.float64)
    right = np.concatenate([(r.mask == c.truth).ravel()[::EVERY] for c, r in zip(cases, results, strict=True)])
    return {"masks": calibration_error(confidence, safe), "pixels": calibration_error(pixels, right)}


def calibration_error(confidence: Array, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean distance between confidence and share that is right, over bins of confidence by how many are in them."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[places == k].sum() - right[places == k].sum()) for k in range(bins)]
    return float(sum(gaps) / len(confidence))


if __name__ == "__main__":
    main()
