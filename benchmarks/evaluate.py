"""Running mask refiners over corrupted masks, and what the outcomes say: tables, paired differences, shares."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.baselines import BASELINES, Baseline
from benchmarks.corruptions import CORRUPTIONS, corrupt
from benchmarks.report import Estimate, estimate, markdown_table, paired_difference

Mask = NDArray[np.bool_]
WORSE = 0.02  # a mask that loses more IoU than this was made worse


@dataclass(frozen=True, kw_only=True)
class CorruptedCase:
    """One mask to refine.

    Attributes:
        scene: Number of the scene; cases that share it are not independent.
        image: uint8 (H, W, 3) RGB.
        instances: uint8 (H, W); 0 background, k the visible pixels of object k.
        target: The object that the label names.
        label: Its class, in words.
        kind: How the true mask was corrupted.
        coarse: float32 (H, W) in [0, 1], the corrupted mask.
    """

    scene: int
    image: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    target: int
    label: str
    kind: str
    coarse: NDArray[np.float32]

    @property
    def truth(self) -> Mask:
        """The target's visible pixels, (H, W)."""
        return np.equal(self.instances, self.target)


Method = Callable[[CorruptedCase], Mask]


@dataclass(frozen=True, kw_only=True)
class MethodOutcome:
    """Effect of one method on every case, in the order of the cases.

    Attributes:
        masks: bool (H, W) each.
        iou: Overlap with the truth, (n,) in [0, 1].
        seconds: Wall time of each call, (n,); with several processes, under each other's load.
    """

    masks: tuple[Mask, ...]
    iou: NDArray[np.float64]
    seconds: NDArray[np.float64]


def make_cases(
    image: NDArray[np.uint8],
    instances: NDArray[np.uint8],
    labels: Sequence[str],
    *,
    scene: int,
    seed: int = 0,
    kinds: Iterable[str] = tuple(CORRUPTIONS),
) -> list[CorruptedCase]:
    """Cases of one scene: one object, drawn from those in sight, under each kind of corruption that applies.

    Args:
        image: uint8 (H, W, 3) RGB.
        instances: uint8 (H, W); 0 background, k the visible pixels of object k.
        labels: Class of object 1, 2, …; other objects of the target's class take no part in a corruption.
        scene: The scene's number; with `seed` it settles all that is drawn.
        seed: Another seed draws other targets and corruptions.
        kinds: Keys of `CORRUPTIONS`.
    """
    visible = [k for k in range(1, len(labels) + 1) if (instances == k).any()]
    if not visible:
        return []
    target = int(np.random.default_rng([seed, scene]).choice(visible))
    label = labels[target - 1]
    namesakes = [k for k in visible if labels[k - 1] == label and k != target]
    eligible = np.where(np.isin(instances, namesakes), 0, instances).astype(np.uint8)
    cases = []
    for kind in kinds:
        coarse = corrupt(kind, eligible, target, np.random.default_rng([seed, scene, list(CORRUPTIONS).index(kind)]))
        if coarse is not None:
            case = CorruptedCase(
                scene=scene, image=image, instances=instances, target=target, label=label, kind=kind, coarse=coarse
            )
            cases.append(case)
    return cases


def keep_coarse(case: CorruptedCase) -> Mask:
    """The coarse mask itself."""
    return np.greater(case.coarse, 0.5)


def _apply(baseline: Baseline, case: CorruptedCase) -> Mask:
    return baseline(case.image, case.coarse)


CLASSICAL: dict[str, Method] = {
    "coarse": keep_coarse,
    **{name: partial(_apply, baseline) for name, baseline in BASELINES.items()},
}


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union; 1 when both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def evaluate(
    cases: Sequence[CorruptedCase], methods: Mapping[str, Method], *, processes: int = 1, progress: bool = True
) -> dict[str, MethodOutcome]:
    """Outcome of every method on every case; join calls with `|`.

    Args:
        cases: What to refine.
        methods: Callables from a case to a bool (H, W) mask; for more than one process, functions that pickle.
        processes: 1 runs here, one after the other: use it where `seconds` matter.
        progress: Show a progress bar on stderr.

    Raises:
        ValueError: A method returned something other than a bool mask of the image's size.
    """

    def outcome(name: str, runs: Iterable[tuple[Mask, float]]) -> MethodOutcome:
        return _collect(name, cases, tqdm(runs, desc=name, total=len(cases), unit="mask", disable=not progress))

    if processes == 1:
        return {name: outcome(name, map(partial(_run, method), cases)) for name, method in methods.items()}
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other libraries' threads
    with ProcessPoolExecutor(processes, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return {
            name: outcome(name, pool.map(partial(_run, method), cases, chunksize=8)) for name, method in methods.items()
        }


def _run(method: Method, case: CorruptedCase) -> tuple[Mask, float]:
    start = time.perf_counter()
    mask = method(case)
    return mask, time.perf_counter() - start


def _collect(name: str, cases: Sequence[CorruptedCase], runs: Iterable[tuple[Mask, float]]) -> MethodOutcome:
    masks, seconds = zip(*runs, strict=True)
    for mask, case in zip(masks, cases, strict=True):
        if mask.shape != case.coarse.shape or mask.dtype != np.bool_:
            expected = f"a bool mask of shape {case.coarse.shape}"
            raise ValueError(f"expected {expected} from method {name!r}; got {mask.dtype} {mask.shape}")
    overlap = [iou(mask, case.truth) for mask, case in zip(masks, cases, strict=True)]
    return MethodOutcome(masks=masks, iou=np.array(overlap), seconds=np.array(seconds))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method's figures.

    Attributes:
        kinds: Mean IoU of each kind.
        mean: Mean IoU over all masks; the error counts masks of one scene as dependent.
        mean_of_kinds: Mean of `kinds`, where rare kinds weigh as much as others.
        worse: Share of masks more than `WORSE` below the coarse mask.
        unchanged: Share of masks equal to the coarse mask, as when a tool cannot start.
        seconds: Median time of one mask.
    """

    kinds: dict[str, float]
    mean: Estimate
    mean_of_kinds: float
    worse: float
    unchanged: float
    seconds: float


def summarise(cases: Sequence[CorruptedCase], outcomes: Mapping[str, MethodOutcome]) -> dict[str, Summary]:
    """Figures of every method."""
    scenes = [case.scene for case in cases]
    coarse = [keep_coarse(case) for case in cases]
    before = np.array([iou(mask, case.truth) for mask, case in zip(coarse, cases, strict=True)])
    summaries = {}
    for name, outcome in outcomes.items():
        kinds = {kind: float(outcome.iou[rows].mean()) for kind, rows in rows_by_kind(cases).items()}
        summaries[name] = Summary(
            kinds=kinds,
            mean=estimate(outcome.iou, scenes),
            mean_of_kinds=float(np.mean(list(kinds.values()))),
            worse=float((outcome.iou < before - WORSE).mean()),
            unchanged=float(np.mean([np.array_equal(a, b) for a, b in zip(outcome.masks, coarse, strict=True)])),
            seconds=float(np.median(outcome.seconds)),
        )
    return summaries


def rows_by_kind(cases: Sequence[CorruptedCase]) -> dict[str, NDArray[np.intp]]:
    """Indices of the cases of each kind that occurs, in the order of `CORRUPTIONS`."""
    kinds = np.array([case.kind for case in cases])
    return {kind: np.flatnonzero(kinds == kind) for kind in CORRUPTIONS if kind in kinds}


def compare(
    cases: Sequence[CorruptedCase], outcomes: Mapping[str, MethodOutcome], against: str
) -> dict[str, dict[str, Estimate]]:
    """Paired IoU difference of every other method to `against`, by kind and, under "all", over all masks."""
    scenes, theirs = np.array([case.scene for case in cases]), outcomes[against].iou
    groups = rows_by_kind(cases) | {"all": np.arange(len(cases))}
    return {
        name: {kind: paired_difference(outcome.iou[rows], theirs[rows], scenes[rows]) for kind, rows in groups.items()}
        for name, outcome in outcomes.items()
        if name != against
    }


def summary_table(summaries: Mapping[str, Summary]) -> str:
    """Markdown: mean IoU by kind and overall, shares made worse and unchanged, milliseconds a mask."""
    kinds = list(next(iter(summaries.values())).kinds)
    header = ["method", *kinds, "all masks", "mean of kinds", "worse", "unchanged", "ms"]
    rows = [
        [name, *s.kinds.values(), f"{s.mean.mean:.3f} ± {s.mean.standard_error:.3f}", s.mean_of_kinds]
        + [f"{s.worse:.1%}", f"{s.unchanged:.1%}", f"{1000 * s.seconds:.1f}"]
        for name, s in summaries.items()
    ]
    return markdown_table(header, rows)


def comparison_table(differences: Mapping[str, Mapping[str, Estimate]], against: str) -> str:
    """Markdown: paired IoU differences with their standard errors, by kind and over all masks."""
    kinds = list(next(iter(differences.values())))
    return markdown_table([f"minus {against}", *kinds], [[name, *row.values()] for name, row in differences.items()])
