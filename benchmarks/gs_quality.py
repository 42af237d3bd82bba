"""Quality of label diffusion on phrases, on held-out demo scenes in which classes repeat.

    python -m benchmarks.gs_quality              the test scenes; writes benchmarks/results/gs_quality.*
    python -m benchmarks.gs_quality --validation other scenes, on which settings are chosen; writes nothing

Scenes are composed from sprites and photographs that the demo model never saw (downloaded on the first run, 650 MB).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from benchmarks.report import estimate, markdown_table, paired_difference, write_result
from segrefine.assets import demo_bundle, demo_gs_bundle
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.imaging.metrics import average_recall, boundary_iou, iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment
from segrefine.runtime.segmenter import Segmenter
from segrefine.samplers import SAMPLERS
from segrefine.settings import GsSettings
from training.demo.phrases import Phrase, list_phrases
from training.demo.scenes import DemoScene, compose_scene
from training.demo.sources import load_sources
from training.demo.train import TWINS

TEST_SEED, VALIDATION_SEED = 300_000, 400_000
NAMED, SUPERLATIVES = ("single", "colour", "relation"), ("size", "side")
SINGLES = (*NAMED, *SUPERLATIVES)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "overall": (*SINGLES, "plural", "several", "background"),
    "singulars": SINGLES,
    "plurals": ("plural", "several"),
    "things": (*SINGLES, "plural", "several"),
    "stuff": ("background",),
}
STEPS, SAMPLES = (1, 2, 4, 8, 20), (1, 2, 4, 8)
SAMPLER_STEPS = 4
"""At one step all samplers do nearly the same."""
FOUND = 0.01  # share of the image from which a mask counts as "something is there"


@dataclass(frozen=True, kw_only=True)
class PhraseAnswer:
    """Answer to one phrase.

    Attributes:
        scene: number of the scene.
        phrase: the phrase, with what it names.
        iou: of the mask with what is named.
        boundary: boundary IoU of the same.
        area: share of the image that the mask covers.
        confidence: see `Segment.confidence`.
        wrong: the mask fits an object best that the phrase does not name; None where there is no other object, or the
            phrase does not name a single one.
    """

    scene: int
    phrase: Phrase
    iou: float
    boundary: float
    area: float
    confidence: float
    wrong: bool | None


@click.command()
@click.option("--scenes", default=250, show_default=True, help="Scenes; each is asked one phrase of every kind it has.")
@click.option("--curve-scenes", default=100, show_default=True, help="Scenes for the curves over steps and samples.")
@click.option("--validation", is_flag=True, help="Use the validation scenes and write nothing.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Another bundle than the demo's.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, curve_scenes: int, validation: bool, bundle: Path | None, cache: Path) -> None:
    """Measure the quality of generated masks."""
    sources = load_sources(cache, held_out=True)
    first = VALIDATION_SEED if validation else TEST_SEED
    composed = [compose_scene(np.random.default_rng(first + i), sources, twins=TWINS) for i in range(scenes)]
    asked = [_ask(scene, first + i) for i, scene in enumerate(composed)]
    with Segmenter.from_bundle(bundle or demo_gs_bundle()) as segmenter, Refiner.from_bundle(demo_bundle()) as refiner:
        settings = segmenter.settings
        answers = segment_all(segmenter, settings, composed, asked, "fixed setting")
        plain = segment_all(segmenter, replace(settings, edges=False), composed, asked, "no edge step")
        few = _naming(composed[:curve_scenes], asked[:curve_scenes])
        curves = {
            name: _mean_iou(segment_all(segmenter, changed, *few, name), NAMED)
            for name, changed in _variants(settings).items()
        }
        chain = _refine(segmenter, refiner, *few)
    summary = _summary(answers) | {"without_edge_step": _named(plain)}
    markdown = _report(summary, curves, chain, answers, settings, (len(composed), len(few[0])))
    click.echo(markdown)
    if not validation:
        write_result("gs_quality", {**summary, "curves": curves, "refine": chain, "settings": settings}, markdown)


def segment_all(
    segmenter: Segmenter, settings: GsSettings, scenes: Sequence[DemoScene], asked: Sequence[list[Phrase]], title: str
) -> list[PhraseAnswer]:
    """Segment every phrase of every scene."""
    answers: list[PhraseAnswer] = []
    for number, (scene, phrases) in enumerate(zip(tqdm(scenes, desc=title, leave=False), asked, strict=True)):
        found = segmenter(scene.image, [phrase.text for phrase in phrases], settings=settings).segments
        answers += [_judge(number, scene, *pair) for pair in zip(phrases, found, strict=True)]
    return answers


def _ask(scene: DemoScene, seed: int) -> list[Phrase]:
    """One phrase of every kind that the scene has."""
    rng = np.random.default_rng(seed)
    return [phrases[rng.integers(len(phrases))] for phrases in list_phrases(scene).values()]


def _naming(scenes: Sequence[DemoScene], asked: Sequence[list[Phrase]]) -> tuple[list[DemoScene], list[list[Phrase]]]:
    """The scenes in which something can be named, and those phrases."""
    named = [[phrase for phrase in phrases if phrase.kind in NAMED] for phrases in asked]
    pairs = [(scene, phrases) for scene, phrases in zip(scenes, named, strict=True) if phrases]
    return [scene for scene, _ in pairs], [phrases for _, phrases in pairs]


def _judge(number: int, scene: DemoScene, phrase: Phrase, found: Segment) -> PhraseAnswer:
    mask, truth = found.mask, phrase.mask(scene.instances)
    overlap = iou(mask, truth)
    others = [iou(mask, scene.instances == n + 1) for n in range(len(scene.classes)) if n + 1 not in phrase.objects]
    return PhraseAnswer(
        scene=number,
        phrase=phrase,
        iou=overlap,
        boundary=boundary_iou(mask, truth),
        area=float(mask.mean()),
        confidence=found.confidence,
        wrong=max(others) > overlap if others and phrase.kind in SINGLES else None,
    )


def _variants(settings: GsSettings) -> dict[str, GsSettings]:
    steps = {f"{n} steps": replace(settings, steps=n) for n in STEPS}
    samples = {f"{n} samples": replace(settings, samples=n) for n in SAMPLES}
    more = replace(settings, steps=SAMPLER_STEPS)
    samplers = {f"{name}, {SAMPLER_STEPS} steps": replace(more, sampler=name) for name in SAMPLERS}
    return steps | samples | samplers


def _of(answers: Iterable[PhraseAnswer], kinds: Sequence[str]) -> list[PhraseAnswer]:
    return [answer for answer in answers if answer.phrase.kind in kinds]


def _mean_iou(answers: Iterable[PhraseAnswer], kinds: Sequence[str]) -> float:
    return float(np.mean([answer.iou for answer in _of(answers, kinds)]))


def _wrong_rate(answers: Iterable[PhraseAnswer], kinds: Sequence[str]) -> float:
    return float(np.mean([answer.wrong for answer in _of(answers, kinds) if answer.wrong is not None]))


def _named(answers: Sequence[PhraseAnswer]) -> dict[str, float]:
    """The figures of what is named as people would name it."""
    named = _of(answers, NAMED)
    return {
        "iou": _mean_iou(answers, NAMED),
        "iou_error": estimate([a.iou for a in named], [a.scene for a in named]).standard_error,
        "boundary_iou": float(np.mean([answer.boundary for answer in named])),
        "wrong_object_rate": _wrong_rate(answers, NAMED),
    }


def _summary(answers: Sequence[PhraseAnswer]) -> dict[str, object]:
    named, absent = _of(answers, NAMED), _of(answers, ("absent",))
    kinds = sorted({answer.phrase.kind for answer in answers} - {"absent"})
    return {
        **_named(answers),
        "with_superlatives": {"iou": _mean_iou(answers, SINGLES), "wrong_object_rate": _wrong_rate(answers, SINGLES)},
        "phrases": len(answers),
        "average_recall": {name: average_recall([a.iou for a in _of(answers, g)]) for name, g in GROUPS.items()},
        "iou_by_kind": {kind: float(np.mean([a.iou for a in _of(answers, [kind])])) for kind in kinds},
        "absent": {
            "taken_for_something": float(np.mean([answer.area > FOUND for answer in absent])),
            "mean_area": float(np.mean([answer.area for answer in absent])),
            "mean_confidence": float(np.mean([answer.confidence for answer in absent])),
            "mean_confidence_of_what_is_there": float(np.mean([answer.confidence for answer in named])),
        },
    }


def _refine(
    segmenter: Segmenter, refiner: Refiner, scenes: Sequence[DemoScene], asked: Sequence[list[Phrase]]
) -> dict[str, float]:
    """Refine the generated probabilities of single objects by G4Seg, paired."""
    scores: list[tuple[float, ...]] = []
    groups: list[int] = []
    for number, (scene, phrases) in enumerate(zip(scenes, asked, strict=True)):
        found = segmenter(scene.image, [phrase.text for phrase in phrases])
        refined = refine_segments(refiner, scene.image, found)
        for phrase, *pair in zip(phrases, found.segments, refined.segments, strict=True):
            truth, masks = phrase.mask(scene.instances), [segment.mask for segment in pair]
            scores.append(tuple(measure(mask, truth) for measure in (iou, boundary_iou) for mask in masks))
            groups.append(number)
    columns = np.array(scores).T
    gains = [paired_difference(columns[i + 1], columns[i], groups) for i in (0, 2)]
    return {
        "iou_alone": float(columns[0].mean()),
        "iou_refined": float(columns[1].mean()),
        "iou_gain": gains[0].mean,
        "iou_gain_error": gains[0].standard_error,
        "boundary_iou_alone": float(columns[2].mean()),
        "boundary_iou_refined": float(columns[3].mean()),
        "boundary_iou_gain": gains[1].mean,
        "boundary_iou_gain_error": gains[1].standard_error,
        "masks": len(scores),
    }


def _report(
    summary: Mapping[str, object],
    curves: Mapping[str, float],
    chain: Mapping[str, float],
    answers: Sequence[PhraseAnswer],
    settings: GsSettings,
    scenes: tuple[int, int],
) -> str:
    rate, overlap, all_of_it = (summary[name] for name in ("wrong_object_rate", "iou", "with_superlatives"))
    assert isinstance(rate, float) and isinstance(overlap, float) and isinstance(all_of_it, Mapping)
    some = f"on the first {scenes[1]} scenes that name something"
    bars: list[list[object]] = [
        ["IoU of the named object", ">= 0.75", overlap, "yes" if overlap >= 0.75 and settings.steps <= 4 else "no"],
        ["wrong-object rate", "<= 5 %", f"{rate:.1%}", "yes" if rate <= 0.05 else "no"],
        ["IoU, superlatives too", "", all_of_it["iou"], ""],
        ["wrong-object rate, superlatives too", "", f"{all_of_it['wrong_object_rate']:.1%}", ""],
    ]
    tables: dict[str, tuple[list[str], list[list[object]]]] = {
        "Bars": (["figure", "bar", "measured", "met"], bars),
        "IoU by kind of phrase": (["kind", "IoU"], _rows(summary["iou_by_kind"])),
        "Average recall": (["phrases", "average recall"], _rows(summary["average_recall"])),
        "Phrases for what is not there": (["figure", "value"], _rows(summary["absent"])),
        "The samples alone, without the edge step": (["figure", "value"], _rows(summary["without_edge_step"])),
        f"Other steps, samples, samplers, {some}": (["changed", "IoU of the named object"], _rows(curves)),
        f"Handed to G4Seg as the coarse mask, {some}": (["figure", "value"], _rows(chain)),
    }
    intro = (
        f"{len(answers)} phrases for {scenes[0]} held-out scenes, one fixed setting: {settings.sampler}, steps: "
        f"{settings.steps}, samples: {settings.samples}, guidance: {settings.guidance_scale:g}. The named "
        "object: one that its class, its colour, or its place beside another tells; boundary IoU "
        f"{summary['boundary_iou']:.3f}. Superlatives: the big, small, left or right one of a class."
    )
    sections = [f"## {title}\n\n{markdown_table(*content)}" for title, content in tables.items()]
    return "\n\n".join(["# Quality of generated masks", intro, *sections])


def _rows(values: object) -> list[list[object]]:
    assert isinstance(values, Mapping)
    return [[str(name).replace("_", " "), value] for name, value in values.items()]


if __name__ == "__main__":
    main()
