"""Fitting the settings and the guard of a bundle to images with true masks.

The images are divided in two. Settings are searched and the guard is fitted on the fit part. Then the held-out part,
to which nothing was fitted, is refined twice: as the bundle was, and with what was found. Only what is better there is
written into the bundle.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from segrefine import __version__
from segrefine.batch.journal import claimed
from segrefine.batch.options import agree_on_options, describe_options
from segrefine.batch.worker import Job
from segrefine.bundle import Bundle
from segrefine.evaluation.comparison import Unread
from segrefine.runtime.guard import Guard, contrast, free_guard, guard_changes
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.regions import REGION_FEATURES, describe_regions
from segrefine.settings import G4SegSettings
from segrefine.tuning.bundle_fit import check_writable, hash_denoiser, write_fit
from segrefine.tuning.cases import Case, LabelledData
from segrefine.tuning.evaluations import Evaluation, Evaluations, Figures, identify
from segrefine.tuning.guard_fit import FOLDS, GuardSample, fit_guard
from segrefine.tuning.search import GRID, Grid, count_trials, remember, search_settings

MOST_WORSE = 0.03
"""Share of the masks that may be made worse by more than 0.02."""
Tell = Callable[[str, float], None]
"""Called with the stage, and the share of the stage's work that is done."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of tuning, and whether the bundle was changed.

    Attributes:
        gained: whether the result is better on the held-out part; only then it is written into the bundle.
        reason: why nothing was gained; empty where something was.
        fit: names of the images that settings and guard were fitted to.
        held_out: names of the images that the result was judged on.
        unread: images that could not be used.
        start: the bundle's settings before.
        settings: the settings that were found.
        guard: the guard that was chosen, fitted or free; None where nothing was tried.
        before: of the held-out part, with the bundle as it was; None where it was not judged.
        after: of the held-out part, with the new settings and the new guard.
        about: on what the fit was made; the bundle keeps it.
    """

    gained: bool
    reason: str
    fit: Sequence[str]
    held_out: Sequence[str]
    unread: Sequence[Unread]
    start: G4SegSettings
    settings: G4SegSettings
    guard: Guard | None = None
    before: Figures | None = None
    after: Figures | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Old and new value of each setting that was changed, as JSON values."""
        old, new = self.start.to_dict(), self.settings.to_dict()
        return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def tune(job: Job, truth: Path, *, grid: Grid = GRID, resume: bool = False, tell: Tell | None = None) -> Outcome:
    """Fit settings and guard to labelled images, and write them into the bundle where the held-out part gains.

    A killed run goes on with `resume`; no image is refined again with settings that were tried before.

    Args:
        job: the data set, the bundle, the output folder and the seed. Its `guard` and `crop` are not used.
        truth: where the true masks lie.
        grid: values to try by setting.
        resume: go on in an output folder that a run with the same options began.
        tell: told of the progress.

    Raises:
        BundleError: there is no bundle, or it does not refine masks.
        MaskError: there is no data set or no truth, they do not fit together, or fewer than ten images can be used.
        OutputError: the output folder or the bundle cannot be written to, or other options were used before.
    """
    bundle = Bundle.open(job.setup.bundle)
    bundle.check_method("g4seg")
    check_writable(bundle)
    data = LabelledData(job, truth)
    fit, held_out, unread = data.split(job.seed)
    options = describe_options(job) | {"truth": str(truth.resolve()), "grid": {k: list(v) for k, v in grid.items()}}
    with claimed(job.output, resume=resume), Refiner.from_setup(job.setup) as refiner:
        known = Evaluations(job.output)
        agree_on_options(job, options, begun=len(known) > 0)
        run = _Tuning(
            job=job, data=data, known=known, refiner=refiner, grid=grid, tell=tell or (lambda stage, share: None)
        )
        outcome = run.find(fit, held_out, unread)
        if outcome.gained and outcome.guard:
            write_fit(bundle.path, outcome.settings, outcome.guard)
    return outcome


@dataclass(kw_only=True)
class _Tuning:
    """One run: what it works on, and what is known so far."""

    job: Job
    data: LabelledData
    known: Evaluations
    refiner: Refiner
    grid: Grid
    tell: Tell
    trials: int = 0

    def find(self, fit: Sequence[str], held_out: Sequence[str], unread: Sequence[Unread]) -> Outcome:
        """Search settings, fit the guard, and judge both on the held-out part."""
        start = self.refiner.settings
        trying = remember(self.refiner).derive(guard=free_guard())  # the bundle's was fitted to other settings
        shared: dict[str, Any] = {"fit": fit, "held_out": held_out, "unread": unread, "start": start}

        first, reason = self._choose_start(trying, fit)
        if reason:
            return Outcome(gained=False, reason=reason, settings=start, **shared)

        most = count_trials(first, self.grid)
        settings = search_settings(first, lambda each: self._score(trying, each, fit, most), self.grid)
        guard = self._choose_guard(self._collect(trying, settings, fit), fit)
        before = self._judge("before", self.refiner, held_out)
        after = self._judge("after", self.refiner.derive(settings=settings, guard=guard), held_out)
        about = self._describe(fit, held_out, before, after)
        reason = _compare(before, after)
        return Outcome(
            gained=not reason, reason=reason, settings=settings, guard=_note(guard, about), before=before,
            after=after, about=about, **shared,
        )  # fmt: skip

    def _choose_start(self, trying: Refiner, names: Sequence[str]) -> tuple[G4SegSettings, str]:
        """Settings with which the model knows something of the labels; else a reason why there are none."""
        start = self.refiner.settings
        if not start.measures_worth:
            return start, "the bundle's settings do not measure what its evidence is worth, and a guard needs that"
        usual = start.with_changes({"worth_range": G4SegSettings().worth_range})  # the bundle's may be spoilt
        for settings in dict.fromkeys((start, usual)):
            if self._knows(trying, settings, names):
                return settings, ""
        return start, "the model cannot tell these labels apart: its evidence was worth nothing in every image"

    def _knows(self, trying: Refiner, settings: G4SegSettings, names: Sequence[str]) -> bool:
        evaluations = self._try(trying, settings, names, "what the model knows")
        return any(worth > 0 for each in evaluations for worth in each.worth)

    def _score(self, trying: Refiner, settings: G4SegSettings, names: Sequence[str], most: int) -> float:
        """Mean IoU of the fit part with some settings, under the free guard."""
        self.trials += 1
        stage = f"settings {self.trials} of at most {most}"
        return Figures.of(list(self._try(trying, settings, names, stage))).iou

    def _try(self, trying: Refiner, settings: G4SegSettings, names: Sequence[str], stage: str) -> Iterator[Evaluation]:
        what = identify("settings", settings.to_dict())
        for number, name in enumerate(names):
            self.tell(stage, number / len(names))
            yield self.known.get(what, name) or self._evaluate(what, name, trying, settings, crop=False)

    def _evaluate(self, what: str, name: str, refiner: Refiner, settings: G4SegSettings, *, crop: bool) -> Evaluation:
        case = self.data.read(name)
        began = time.perf_counter()
        results = refiner(case.image, case.masks, crop=crop, settings=settings, seed=self.job.seed)
        seconds = time.perf_counter() - began
        evaluation = Evaluation(
            what=what,
            image=name,
            coarse=tuple(case.iou(k, coarse > 0.5) for k, (_, coarse) in enumerate(case.masks)),
            refined=tuple(case.iou(k, each.mask) for k, each in enumerate(results)),
            worth=tuple(1.0 if each.evidence_worth is None else each.evidence_worth for each in results),
            seconds=seconds,
        )
        self.known.add(evaluation)
        return evaluation

    def _collect(self, trying: Refiner, settings: G4SegSettings, names: Sequence[str]) -> list[GuardSample]:
        """Collect samples to fit the guard: the masks of the fit part, refined without a guard."""
        samples: list[GuardSample] = []
        for number, name in enumerate(names):
            self.tell("guard", number / len(names))
            case = self.data.read(name)
            results = trying(case.image, case.masks, crop=False, guard=False, settings=settings, seed=self.job.seed)
            samples += _sample(number, case, results)
        return samples

    def _choose_guard(self, samples: Sequence[GuardSample], names: Sequence[str]) -> Guard:
        """The fitted guard, if it gains more than the free one on images that it was not fitted to; else the free one.

        Guards of the two halves of the images stand for the fitted one, each on the other half.
        """
        fitted, free = _fit(samples), free_guard()
        halves = [[sample for sample in samples if sample.image % 2 == half] for half in (0, 1)]
        of_first, of_second = (_fit(half) for half in halves)
        if fitted is None or of_first is None or of_second is None:
            return free
        gained = self._gain(halves[1], of_first, names) + self._gain(halves[0], of_second, names)
        return fitted if gained > self._gain(samples, free, names) else free

    def _gain(self, samples: Sequence[GuardSample], guard: Guard, names: Sequence[str]) -> float:
        """The sum of the IoU that the samples gain over the coarse masks under a guard."""
        images = {number: self.data.read(names[number]).image for number in {sample.image for sample in samples}}
        return sum(s.gain(guard_changes(images[s.image], s.result, guard).mask) for s in samples)

    def _judge(self, side: str, refiner: Refiner, names: Sequence[str]) -> Figures:
        """The figures of the held-out part, refined as every surface does it: with crops and the guard."""
        what = identify(side, refiner.settings.to_dict(), refiner.guard.to_dict() if refiner.guard else {})
        found = []
        for number, name in enumerate(names):
            self.tell(f"held-out part, {side}", number / len(names))
            found.append(self.known.get(what, name) or self._evaluate(what, name, refiner, refiner.settings, crop=True))
        return Figures.of(found)

    def _describe(self, fit: Sequence[str], held_out: Sequence[str], before: Figures, after: Figures) -> dict[str, Any]:
        return {
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
            "segrefine": __version__,
            "data": self.job.source.name,
            "images": len(fit),
            "masks": sum(len(self.data.read(name).masks) for name in fit),
            "held_out_images": len(held_out),
            "seed": self.job.seed,
            "denoiser": hash_denoiser(self.refiner.bundle),
            "before": before.to_dict(),
            "after": after.to_dict(),
        }


def _sample(number: int, case: Case, results: Sequence[Refinement]) -> Iterator[GuardSample]:
    """Yield samples to fit the guard: masks about which the model knew something. The free guard judges the others."""
    for truth, result in zip(case.truths, results, strict=True):
        if result.evidence_worth:
            regions, features = describe_regions(case.image, result)
            yield GuardSample(
                image=number, truth=truth, void=case.void, regions=regions, features=features, result=result,
                contrast=contrast(result.fit.image),
            )  # fmt: skip


def _fit(samples: Sequence[GuardSample]) -> Guard | None:
    """A guard; None where there are too few changes to fit it to."""
    changes = np.concatenate([sample.regions.added for sample in samples]) if samples else np.zeros(0, np.bool_)
    if min(len({sample.image for sample in samples}), changes.sum(), (~changes).sum()) < FOLDS:
        return None
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        guard = fit_guard(samples, REGION_FEATURES, most_worse=MOST_WORSE)
    judges = guard.added, guard.removed, guard.mask, guard.pixels
    is_finite = all(np.isfinite((*each.mean, *each.scale, *each.weights)).all() for each in judges)
    return guard if is_finite else None  # a fold without a region of one kind


def _compare(before: Figures, after: Figures) -> str:
    """Return the reason the new settings are not better; empty if they are."""
    if after.iou <= before.iou:
        return f"the held-out part did not gain: mean IoU {before.iou:.4f} before, {after.iou:.4f} after"
    if after.made_worse > max(before.made_worse, MOST_WORSE):
        shares = f"{before.made_worse:.1%} before, {after.made_worse:.1%} after"
        return f"more masks of the held-out part were made worse by over 0.02 of IoU: {shares}"
    return ""


def _note(guard: Guard, about: dict[str, Any]) -> Guard:
    return Guard.from_dict(guard.to_dict() | {"about": about})
