"""Fits the guards that ship with segrefine.

    python -m training.guard free PHOTOGRAPHS OUTPUT --coco COCO    the free guard
    python -m training.guard demo PHOTOGRAPHS OUTPUT                the guard of the demo bundle
    python -m training.guard photo PHOTOGRAPHS OUTPUT               the guard of the bundle `photo`

The first two are fitted on emoji scenes, the free guard on photographs of VOC and COCO too. The guard of `photo` is
fitted on the classes that it knows. PHOTOGRAPHS holds images/, masks/, classes.json, train.txt and val.txt. All of
val.txt is used, for the free guard every twelfth photograph of train.txt too; others are kept for reporting. COCO holds
images/ and instances.json.
Masks are spoilt as `benchmarks.corruptions` does it, and as a network of low resolution would draw them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.corruptions import CORRUPTIONS, SEMANTIC_KINDS
from benchmarks.evaluate import CorruptedCase, make_cases
from benchmarks.quality import VALIDATION_SEED, cases_of
from segrefine.assets import PHOTO_LABELS, demo_bundle, photo_bundle
from segrefine.datasets.polygons import draw_polygons
from segrefine.runtime.files.output import write_whole
from segrefine.runtime.guard import contrast
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.regions import FREE_FEATURES, REGION_FEATURES, describe_regions
from segrefine.settings import G4SegSettings
from segrefine.tuning.guard_fit import GuardSample, fit_guard
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

VOID = 255
LEAST_SHARE, MOST_SHARE = 0.01, 0.98
"""Objects and masks of another share of the image are left out."""
Fitted = Sequence[tuple[CorruptedCase, NDArray[np.bool_], str]]
"""Cases with the pixels that do not count, and the group that each belongs to."""


@dataclass(frozen=True, kw_only=True)
class GuardPlan:
    """Recipe of a guard.

    Attributes:
        bundle: whose masks are judged.
        most_worse: greatest share of masks of a group made worse in cross-validation.
        emoji: whether emoji scenes are among the data.
        lists: files with the names of photographs, each with the step by which they are taken.
        labels: classes whose masks count; empty for all.
        pairs: whether regions and masks are judged by pairs of features too.
        free: whether the guard is that for every model: it judges what the edge step does where no model says anything,
            and knows no evidence.
    """

    bundle: Callable[[], Path]
    most_worse: float
    emoji: bool = False
    lists: Mapping[str, int] = field(default_factory=dict)
    labels: Collection[str] = ()
    pairs: bool = True
    free: bool = False


PLANS = {
    "free": GuardPlan(
        bundle=demo_bundle, most_worse=0.03, emoji=True, lists={"val.txt": 1, "train.txt": 12}, free=True
    ),
    "demo": GuardPlan(bundle=demo_bundle, most_worse=0.04, emoji=True, pairs=False),
    "photo": GuardPlan(bundle=photo_bundle, most_worse=0.03, lists={"val.txt": 1}, labels=PHOTO_LABELS),
}


@click.command()
@click.argument("which", type=click.Choice(list(PLANS)))
@click.argument("photographs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--coco", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of COCO images.")
@click.option("--scenes", default=100, show_default=True, help="Emoji scenes.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(which: str, photographs: Path, output: Path, coco: Path | None, scenes: int, cache: Path) -> None:
    """Fit a guard and write it as JSON."""
    plan = PLANS[which]
    if coco and not plan.free:
        raise click.UsageError("--coco is for the free guard")
    names = [name for file, step in plan.lists.items() for name in (photographs / file).read_text().split()[::step]]
    cases = list(_emoji_cases(scenes, cache)) if plan.emoji else []
    if names:
        cases += _photograph_cases(photographs, names)
    if plan.labels:
        cases = [(case, void, _divide(group, case)) for case, void, group in cases if case.label in plan.labels]
    if coco:
        cases += _coco_cases(coco)
    with Refiner.from_bundle(plan.bundle()) as refiner:
        settings = replace(G4SegSettings(), worth_range=(1e6, 1e7)) if plan.free else refiner.settings
        samples = [_sample(refiner, case, void, group, settings) for case, void, group in tqdm(cases, desc="masks")]
    if not plan.free:
        samples = [sample for sample in samples if sample.result.evidence_worth]
    parts = [f"{scenes} emoji scenes"] * plan.emoji
    if names:
        parts.append(f"{len(names)} photographs of PASCAL VOC 2012" + (" and those of COCO 2017" if coco else ""))
    about = {
        "data": f"{', '.join(parts)}, true masks spoilt",
        "images": len({sample.image for sample in samples}),
        "masks": len(samples),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
    }
    features = FREE_FEATURES if plan.free else REGION_FEATURES
    guard = fit_guard(samples, features, most_worse=plan.most_worse, pairs=plan.pairs, about=about)
    write_whole(output, (json.dumps(guard.to_dict()) + "\n").encode())


def _sample(
    refiner: Refiner, case: CorruptedCase, void: NDArray[np.bool_], group: str, settings: G4SegSettings
) -> GuardSample:
    result = refiner(case.image, case.coarse, case.label, crop=False, guard=False, settings=settings)
    regions, features = describe_regions(case.image, result)
    return GuardSample(
        image=case.scene, truth=case.truth, void=void, regions=regions, features=features, result=result,
        contrast=contrast(result.fit.image), group=group,
    )  # fmt: skip


def _emoji_cases(scenes: int, cache: Path) -> Iterator[tuple[CorruptedCase, NDArray[np.bool_], str]]:
    sources = load_sources(cache, held_out=True)
    for number in range(VALIDATION_SEED, VALIDATION_SEED + scenes):
        for case in cases_of(compose_scene(np.random.default_rng(number), sources), number):
            yield case, np.zeros(case.truth.shape, np.bool_), "emoji"


def _photograph_cases(folder: Path, names: Sequence[str]) -> Iterator[tuple[CorruptedCase, NDArray[np.bool_], str]]:
    """Cases of one object of each photograph: one way to spoil its outline, the semantic ways, and a network's."""
    classes = json.loads((folder / "classes.json").read_text())
    for number, name in enumerate(names):
        picture = next(iter((folder / "images").glob(f"{name}.*")))
        image = np.asarray(Image.open(picture).convert("RGB"))
        indices = np.asarray(Image.open(folder / "masks" / f"{name}.png"))
        void = indices == VOID
        large = [k for k in np.unique(indices) if k not in (0, VOID) and (indices == k).mean() > LEAST_SHARE]
        instances = np.zeros(indices.shape, np.uint8)
        for place, index in enumerate(large, 1):
            instances[indices == index] = place
        for case in _spoil(image, instances, [classes[index] for index in large], number):
            yield case, void, "network" if case.kind == "network" else "photograph"


def _coco_cases(folder: Path) -> Iterator[tuple[CorruptedCase, NDArray[np.bool_], str]]:
    """Cases of one object of each image of COCO, likewise."""
    described = json.loads((folder / "instances.json").read_text())
    classes = {each["id"]: each["name"] for each in described["categories"]}
    of_image: dict[int, list[dict[str, Any]]] = {}
    for each in described["annotations"]:
        if isinstance(each["segmentation"], list):  # crowds are run-length encoded
            of_image.setdefault(each["image_id"], []).append(each)
    for number, entry in enumerate(described["images"], 3_000_000):
        image = np.asarray(Image.open(folder / "images" / entry["file_name"]).convert("RGB"))
        height, width = image.shape[:2]
        instances, labels = np.zeros((height, width), np.uint8), []
        for each in sorted(of_image.get(entry["id"], []), key=lambda each: -each["area"])[:VOID]:
            drawn = draw_polygons(each["segmentation"], (height, width))
            labels.append(classes[each["category_id"]])
            instances[drawn] = len(labels)
        shares = np.bincount(instances.ravel(), minlength=len(labels) + 1)[1:] / instances.size
        large = np.flatnonzero(shares > LEAST_SHARE)
        renumbered = np.zeros(len(labels) + 1, np.uint8)
        renumbered[large + 1] = np.arange(1, len(large) + 1)
        for case in _spoil(image, renumbered[instances], [labels[place] for place in large], number):
            yield case, np.zeros(instances.shape, np.bool_), "COCO network" if case.kind == "network" else "COCO"


def _divide(group: str, case: CorruptedCase) -> str:
    """A group of `photo`'s cases. The promise is kept for people alone too: the model knows them less than animals."""
    return f"{group}, people" if case.label == "person" else f"{group}, animals"


def _spoil(
    image: NDArray[np.uint8], instances: NDArray[np.uint8], labels: Sequence[str], number: int
) -> Iterator[CorruptedCase]:
    """Cases of one object: one way to spoil its outline, the semantic ways, and a network's."""
    outlines = [kind for kind in CORRUPTIONS if kind not in SEMANTIC_KINDS]
    kinds = [outlines[2 * number % len(outlines)], *SEMANTIC_KINDS]
    cases = make_cases(image, instances, labels, scene=number, kinds=kinds)
    if cases:
        coarse = draw_as_network(cases[0].truth, np.random.default_rng([number, 77]))
        cases.append(replace(cases[0], kind="network", coarse=coarse))
    return (case for case in cases if 0 < (case.coarse > 0.5).mean() < MOST_SHARE)


def draw_as_network(truth: NDArray[np.bool_], rng: Generator) -> NDArray[np.float32]:
    """A true mask (H, W) as a segmentation network of low resolution draws it: smooth, and wrong in smooth parts."""
    height, width = truth.shape
    stride = rng.uniform(6, 14)
    size = max(4, round(width / stride)), max(4, round(height / stride))
    low = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    noise = cv2.GaussianBlur(np.asarray(rng.normal(0, 1, low.shape), np.float32), (0, 0), 1.0)
    near = cv2.GaussianBlur(low, (0, 0), 1.5) > 0.02
    low = low + rng.uniform(0.05, 0.25) * noise / (noise.std() + 1e-6) * near
    return np.asarray(cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5, np.float32)


if __name__ == "__main__":
    main()
