"""The guard: how many masks it keeps from being made worse, what of the gain it gives up, whether it is calibrated.

python -m benchmarks.guard         the test scenes; writes benchmarks/results/guard.*
python -m benchmarks.guard --fit   validation scenes, on which the guard's numbers are fitted; writes nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.evaluate import WORSE, Case
from benchmarks.quality import TEST_SEED, VALIDATION_SEED, cases_of
from benchmarks.report import estimate, markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.reference.demo.scenes import compose_scene
from segrefine.reference.demo.sources import load_sources
from segrefine.runtime.edges import logit
from segrefine.runtime.guard import FEATURES, GuardSettings, describe, guard
from segrefine.runtime.metrics import iou
from segrefine.runtime.pipeline import Refinement, Refiner

Array = NDArray[np.float64]
MOST_WORSE = 0.02
"""Share of validation masks made worse at which the threshold is set: below the bar, which is for other scenes."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A case, what refining made of it, what the guard sees of that, and the IoU gained."""

    case: Case
    result: Refinement
    features: Array
    gain: float


@click.command()
@click.option("--scenes", default=200, show_default=True, help="Scenes; each gives up to four masks.")
@click.option("--fit", "fitting", is_flag=True, help="Fit on validation scenes, and write nothing.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, fitting: bool, threads: int, cache: Path) -> None:
    """Measure the guard, or fit it."""
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        samples = _collect(refiner, scenes, VALIDATION_SEED if fitting else TEST_SEED, cache)
        if fitting:
            click.echo(fit_guard(samples))
            return
        markdown, data = _judge(refiner, samples)
    click.echo(markdown)
    write_result("guard", data | {"scenes": scenes, "masks": len(samples)}, markdown)


def _collect(refiner: Refiner, count: int, first: int, cache: Path) -> list[Sample]:
    sources, samples = load_sources(cache, held_out=True), []
    for number in tqdm(range(first, first + count), desc="scenes"):
        for case in cases_of(compose_scene(np.random.default_rng(number), sources), number):
            result = refiner(case.image, case.coarse, case.label)
            gain = iou(result.mask, case.truth) - iou(case.coarse > 0.5, case.truth)
            features = describe(refiner.fit(case.image), case.coarse, result)
            samples.append(Sample(case=case, result=result, features=features, gain=gain))
    return samples


def fit_guard(samples: list[Sample]) -> GuardSettings:
    """The guard's numbers: what tells masks that lost from those that won, weighed by how much, and then calibrated."""
    features, gain = np.stack([s.features for s in samples]), np.array([s.gain for s in samples])
    mean, spread = features.mean(0), features.std(0)
    scaled = (features - mean) / spread
    rank = _fit_logistic(scaled, gain > 0, np.abs(gain) + WORSE, ridge=1.0)
    score = scaled @ rank[:-1] + rank[-1]
    slope, constant = _fit_logistic(score[:, None], gain >= -WORSE, np.ones(len(gain)), ridge=0.0)
    weights = slope * rank[:-1] / spread
    bias = float(slope * rank[-1] + constant - weights @ mean)
    odds = features @ weights + bias
    order = np.argsort(-odds)
    lost = np.cumsum(gain[order] < -WORSE) / len(gain)
    threshold = 1 / (1 + np.exp(-odds[order][np.searchsorted(lost, MOST_WORSE, side="right") - 1]))
    return GuardSettings(
        weights=tuple(round(float(w), 4) for w in weights),
        bias=round(bias, 4),
        threshold=round(float(threshold), 3),
        pixel_weights=_fit_pixels(samples, odds),
    )


def _fit_pixels(samples: list[Sample], odds: Array) -> tuple[float, float, float]:
    """Whether a pixel is right, by its own certainty and its mask's; of every 17th pixel."""
    own = np.concatenate([np.abs(logit(s.result.probability)).ravel()[::17] for s in samples])
    of_mask = np.repeat(odds, [s.result.mask[:].ravel()[::17].size for s in samples])
    right = np.concatenate([((s.result.probability > 0.5) == s.case.truth).ravel()[::17] for s in samples])
    found = _fit_logistic(np.stack([own, of_mask], 1), right, np.ones(len(own)), ridge=0.0)
    return tuple(round(float(each), 4) for each in found)  # type: ignore[return-value]


def _fit_logistic(features: Array, truth: NDArray[np.bool_], weights: Array, *, ridge: float) -> Array:
    """Weights and, last, the constant of a logistic regression, by Newton's method."""
    columns = np.c_[features, np.ones(len(features))]
    penalty = np.diag([*[ridge] * features.shape[1], 1e-6])
    found = np.zeros(columns.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-np.clip(columns @ found, -30, 30)))
        slope = columns.T @ (weights * (expected - truth)) + penalty @ found
        curve = (columns * (weights * expected * (1 - expected))[:, None]).T @ columns + penalty
        found -= np.linalg.solve(curve, slope)
    return found


def _judge(refiner: Refiner, samples: list[Sample]) -> tuple[str, dict[str, object]]:
    guarded = [guard(refiner.fit(s.case.image), [s.case.coarse], [s.result])[0] for s in samples]
    gain, kept = np.array([s.gain for s in samples]), np.array([g.kept_coarse for g in guarded])
    after = np.where(kept, 0, gain)
    scenes = [s.case.scene for s in samples]
    worse, share = (after < -WORSE).mean(), after.sum() / gain.sum()
    confidence = np.array([g.confidence for g in guarded])
    pixels = np.concatenate([g.pixel_confidence.ravel()[::17] for g in guarded]).astype(float)
    right = np.concatenate([((s.result.probability > 0.5) == s.case.truth).ravel()[::17] for s in samples])
    rows = [
        ["refined", estimate(gain, scenes), f"{(gain < -WORSE).mean():.1%}", "100%", "0%"],
        ["guarded", estimate(after, scenes), f"{worse:.1%}", f"{share:.1%}", f"{kept.mean():.1%}"],
    ]
    bars = [
        ["masks made worse by more than 0.02", "<= 3 %", f"{worse:.1%}", "yes" if worse <= 0.03 else "no"],
        ["of the ungated gain kept", ">= 85 %", f"{share:.1%}", "yes" if share >= 0.85 else "no"],
    ]
    errors = {"masks": calibration_error(confidence, gain >= -WORSE), "pixels": calibration_error(pixels, right)}
    markdown = "\n\n".join(
        [
            "# The guard",
            f"{len(samples)} corrupted masks of held-out scenes. IoU gained over the coarse mask.",
            markdown_table(["masks", "gain", "made worse", "gain kept", "left coarse"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
            f"Expected calibration error (ten bins): {errors['masks']:.3f} of a mask's confidence that it was not made "
            f"worse by more than {WORSE}, {errors['pixels']:.3f} of a pixel's that it is right "
            f"({right.mean():.1%} of the pixels are).",
        ]
    )
    data: dict[str, object] = {"worse": worse, "gain_kept": share, "left_coarse": kept.mean(), "bars": bars}
    return markdown, data | {"calibration_error": errors, "features": FEATURES, "settings": GuardSettings()}


def calibration_error(confidence: Array, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean distance between confidence and share that is right, over bins of confidence by how many are in them."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[places == k].sum() - right[places == k].sum()) for k in range(bins)]
    return float(sum(gaps) / len(confidence))


if __name__ == "__main__":
    main()
