"""The guard: how many masks it keeps from being made worse, what of the gain it gives up, whether it is calibrated.

python -m benchmarks.guard         the test scenes; writes benchmarks/results/guard.*
python -m benchmarks.guard --fit   validation scenes, on which the guard's numbers are fitted; writes nothing
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.evaluate import WORSE
from benchmarks.guard_fit import EVERY, Sample, fit_guard, judge
from benchmarks.quality import TEST_SEED, VALIDATION_SEED, cases_of
from benchmarks.report import estimate, markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.runtime.guard import MASK_FEATURES, GuardSettings, guard_changes
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.regions import REGION_FEATURES, describe_regions
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

Array = NDArray[np.float64]


@click.command()
@click.option("--scenes", help="Scenes; each gives up to four masks.  [default: 200, or 400 to fit on]", type=int)
@click.option("--fit", "fitting", is_flag=True, help="Fit on validation scenes, and write nothing.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int | None, fitting: bool, threads: int, cache: Path) -> None:
    """Measure the guard, or fit it."""
    scenes = scenes or (400 if fitting else 200)
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        samples = _collect(refiner, scenes, VALIDATION_SEED if fitting else TEST_SEED, cache)
        if fitting:
            click.echo(fit_guard(samples))
            return
    markdown, data = _judge(samples)
    click.echo(markdown)
    write_result("guard", data | {"scenes": scenes, "masks": len(samples)}, markdown)


def _collect(refiner: Refiner, count: int, first: int, cache: Path) -> list[Sample]:
    sources, samples = load_sources(cache, held_out=True), []
    for number in tqdm(range(first, first + count), desc="scenes"):
        for case in cases_of(compose_scene(np.random.default_rng(number), sources), number):
            result = refiner(case.image, case.coarse, case.label, crop=False, guard=False)
            regions, features = describe_regions(case.image, result)
            samples.append(Sample(case=case, result=result, regions=regions, features=features))
    return samples


def _judge(samples: list[Sample]) -> tuple[str, dict[str, object]]:
    guarded = [guard_changes(sample.case.image, sample.result) for sample in samples]
    gain = np.array([s.gain(s.regions.after) for s in samples])
    after = np.array([s.gain(g.mask) for s, g in zip(samples, guarded, strict=True)])
    kept = np.array([g.kept_coarse for g in guarded])
    partly = np.array([0 < g.kept_share < 1 for g in guarded])
    regions = np.array([s.gain(judge(s, GuardSettings()).mask) for s in samples])
    scenes, confidence = [s.case.scene for s in samples], np.array([g.confidence for g in guarded])
    worse, share = (after < -WORSE).mean(), after.sum() / gain.sum()
    pixels = np.concatenate([g.pixel_confidence.ravel()[::EVERY] for g in guarded]).astype(float)
    right = np.concatenate([(g.mask == s.case.truth).ravel()[::EVERY] for s, g in zip(samples, guarded, strict=True)])
    rows = [
        ["refined", estimate(gain, scenes), f"{(gain < -WORSE).mean():.1%}", "100%", "0%", "0%"],
        ["regions judged", estimate(regions, scenes), f"{(regions < -WORSE).mean():.1%}",
         f"{regions.sum() / gain.sum():.1%}", "", ""],
        ["guarded", estimate(after, scenes), f"{worse:.1%}", f"{share:.1%}", f"{partly.mean():.1%}",
         f"{kept.mean():.1%}"],
    ]  # fmt: skip
    bars = [
        ["masks made worse by more than 0.02", "<= 3 %", f"{worse:.1%}", "yes" if worse <= 0.03 else "no"],
        ["of the ungated gain kept", ">= 85 %", f"{share:.1%}", "yes" if share >= 0.85 else "no"],
    ]
    errors = {"masks": calibration_error(confidence, regions >= -WORSE), "pixels": calibration_error(pixels, right)}
    data: dict[str, object] = {"worse": worse, "gain_kept": share, "left_coarse": kept.mean(), "bars": bars}
    data |= {"calibration_error": errors, "features": {"regions": REGION_FEATURES, "masks": MASK_FEATURES}}
    markdown = "\n\n".join(
        [
            "# The guard",
            f"{len(samples)} corrupted masks of held-out scenes. IoU gained over the coarse mask: refined; with the "
            "changes put back that the guard holds for wrong, region by region; and with the coarse mask wherever the "
            "rest is not trusted either.",
            markdown_table(["masks", "gain", "made worse", "gain kept", "partly put back", "left coarse"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
            f"Expected calibration error (ten bins): {errors['masks']:.3f} of a mask's confidence that it was not made "
            f"worse by more than {WORSE}, {errors['pixels']:.3f} of a pixel's that it is right in the end "
            f"({right.mean():.1%} of the pixels are).",
        ]
    )
    return markdown, data | {"settings": GuardSettings()}


def calibration_error(confidence: Array, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean distance between confidence and share that is right, over bins of confidence by how many are in them."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[places == k].sum() - right[places == k].sum()) for k in range(bins)]
    return float(sum(gaps) / len(confidence))


if __name__ == "__main__":
    main()
