"""Running a benchmark whole: predictions, comparisons, scores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segrefine.batch.journal import Entry, claimed
from segrefine.batch.options import agree_on_options, describe_options
from segrefine.batch.run import RefineAll, run_batch
from segrefine.batch.worker import Job
from segrefine.datasets.notation import Notation, Place, ReadingOptions
from segrefine.datasets.object_sets import BIG
from segrefine.datasets.opening import detect_notation, place_of_benchmark
from segrefine.datasets.phrases import show
from segrefine.errors import MaskError, SettingsError
from segrefine.evaluation.bench.benchmarks import BENCHMARKS, BenchmarkSpec
from segrefine.evaluation.bench.methods import COARSE, METHODS, write_masks
from segrefine.evaluation.bench.scoring import Scored, score_method

OURS = "segrefine"
Tell = Callable[[str, int, int], None]
"""Called with a method, how many images are finished, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """Plan of a run.

    Attributes:
        spec: the benchmark.
        job: data, model, and the folder of all results.
        compared: names of the methods to compare with.
        command: the command line, for the report.
    """

    spec: BenchmarkSpec
    job: Job
    compared: Sequence[str] = tuple(METHODS)
    command: str = ""

    def __post_init__(self) -> None:
        """Check the names of the methods."""
        if unknown := [name for name in self.compared if name not in METHODS]:
            raise SettingsError(f"there is no method {unknown[0]!r}", hint=f"methods are {', '.join(METHODS)}")

    @property
    def reading(self) -> ReadingOptions:
        """Return the options for reading the true data."""
        return replace(self.job.reading, zero_shot=False, coarse=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchOutcome:
    """Result of a run.

    Attributes:
        plan: what was run.
        dataset: the data set with the masks that were refined, or with those to find.
        scored: the methods, ours last.
        failures: a sentence for each image that failed.
        peak_memory: bytes that the largest process took; None where the system does not say.
    """

    plan: BenchPlan
    dataset: Notation
    scored: Sequence[Scored]
    failures: Sequence[str]
    peak_memory: int | None


def prepare(plan: BenchPlan, *, check_only: bool = False) -> BenchPlan:
    """The plan with what the benchmark says of its data: its class list, and whether masks are found or given.

    Args:
        plan: what is to be run.
        check_only: whether no mask is refined, so that none need be given.

    Raises:
        MaskError: the data is no benchmark of this kind, or has no coarse masks.
    """
    spec, job = plan.spec, plan.job
    reading = job.reading if job.reading.classes or spec.classes is None else replace(job.reading, classes=spec.classes)
    place = place_of_benchmark(job.source, job.images, replace(reading, zero_shot=False), to_refine=True)
    kind = None
    if place is not None:
        found = place.benchmark
        kind = "phrases" if found is None else "objects" if found.classes == "objects" else "classes"
    if place is None or kind != spec.kind or not _is_of(spec, place):
        expected = {"classes": "label maps", "objects": "masks of objects", "phrases": "phrases"}[spec.kind]
        holds = f", and it holds {_title_of(place)}" if place is not None else ""
        raise MaskError(
            f"{job.source} is not {spec.title}: expected {expected} as its archives have them{holds}",
            hint="docs/data.md says how the data must lie on disk",
        )
    needs_coarse = reading.coarse is None and spec.kind == "objects" and not check_only
    if needs_coarse and (place.benchmark is None or place.benchmark.layout != BIG):
        raise MaskError(f"{spec.title} has true masks alone", hint="--coarse names the folder of the masks to refine")
    finds = reading.coarse is None and spec.kind != "objects"
    return replace(plan, job=replace(job, reading=replace(reading, zero_shot=finds)))


def _title_of(place: Place) -> str:
    """Return a title for the benchmark at a place."""
    if place.benchmark is not None:
        return place.benchmark.layout.title
    names = detect_notation(place)(place).benchmarks
    return " or ".join(BENCHMARKS[name].title for name in names)


def _is_of(spec: BenchmarkSpec, place: Place) -> bool:
    """Return whether objects or phrases at a place are those of a benchmark; class lists tell label maps apart."""
    return spec.kind == "classes" or spec.name in detect_notation(place)(place).benchmarks


def check_data(plan: BenchPlan) -> dict[str, Any]:
    """Describe the data of a benchmark, and what is missing, as JSON values.

    Raises:
        MaskError: the data is not there, or of another kind.
    """
    plan = prepare(plan, check_only=True)
    truth, refined = (_open(plan, plan.reading, to_refine=to_refine) for to_refine in (False, True))
    phrases = sum(len(item.masks) for item in refined.items) if refined.has_phrases else None
    lacks = [*truth.lacks, *_lacks_of_coarse(plan)]
    if truth.has_phrases or plan.job.reading.coarse is None:  # phrases are looked for, or come with their coarse masks
        lacks = list(dict.fromkeys([*refined.lacks, *lacks]))
    return {
        "benchmark": plan.spec.name,
        "images": len(refined.items),
        "masks": len(truth.entries),
        "phrases": phrases,
        "lacks": lacks,
        "remarks": list(truth.remarks),
    }


def _open(plan: BenchPlan, reading: ReadingOptions, *, to_refine: bool) -> Notation:
    place = place_of_benchmark(plan.job.source, plan.job.images, reading, to_refine=to_refine)
    assert place is not None  # `prepare` has found it
    return detect_notation(place)(place)


def _lacks_of_coarse(plan: BenchPlan) -> list[str]:
    """A sentence if masks that `--coarse` should have are missing."""
    coarse = plan.job.reading.coarse
    if coarse is None:
        return []
    dataset = _open(plan, plan.job.reading, to_refine=True)
    missing = dataset.list_without_coarse()
    if not missing:
        return []
    return [f"{len(missing)} of {len(dataset.items)} coarse masks are missing in {coarse}: {show(missing)}"]


def run_bench(
    plan: BenchPlan,
    *,
    workers: int,
    resume: bool = False,
    tell: Tell | None = None,
    refine_all: RefineAll | None = None,
) -> BenchOutcome:
    """Run a benchmark. After a kill at any moment, `resume` does what is missing, and nothing again.

    Args:
        plan: what to run.
        workers: processes.
        resume: go on where a run before was stopped.
        tell: told of every image.
        refine_all: what refines; None for processes of this machine.

    Raises:
        MaskError: the data is not there, or of another kind.
        OutputError: the output folder is another run's, is not empty without `resume`, or holds results of other
            options.
        SegrefineError: the engines do not open.
    """
    plan = prepare(plan)
    job = plan.job.with_notation()
    dataset, output = job.open_dataset(), job.output
    _ = dataset.items  # read before anything is written
    options = describe_options(job) | {"benchmark": plan.spec.name}
    with claimed(output, resume=resume):
        agree_on_options(job, options, begun=(output / OURS).exists())
        values = run_batch(
            replace(job, output=output / OURS), workers=workers, resume=True, refine_all=refine_all,
            tell=_teller(tell),
        )  # fmt: skip
        methods = [] if job.reading.zero_shot else [COARSE, *plan.compared]
        for name in methods:
            write_masks(name, job, dataset, output / name, tell)
        images = job.images or dataset.items[0].root
        scored = [_score(plan, name, images, has_coarse=bool(methods)) for name in [*methods, OURS]]
    failures = [f"{each['name']}: {each['message']}" for each in values["failures"]]
    return BenchOutcome(plan=plan, dataset=dataset, scored=scored, failures=failures, peak_memory=_peak_memory())


def _score(plan: BenchPlan, name: str, images: Path, *, has_coarse: bool) -> Scored:
    output = plan.job.output
    coarse = output / COARSE if has_coarse else None
    return score_method(plan.spec, name, output / name, plan.job.source, plan.reading, coarse, images)


def _teller(tell: Tell | None) -> Callable[[Entry, int, int], None] | None:
    return (lambda _, number, total: tell(OURS, number, total)) if tell else None


def _peak_memory() -> int | None:
    """Bytes that this process or one of its children took at most."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
