"""Gain in mask quality: G4Seg, classical tools and ablations of G4Seg, on held-out demo scenes.

    python -m benchmarks.quality              the test scenes; writes benchmarks/results/quality.*
    python -m benchmarks.quality --validation other scenes, on which settings are chosen; writes nothing
    python -m benchmarks.quality --only NAME --keep    one more row; the others are kept

Scenes are composed from sprites and photographs that the demo model never saw (downloaded on the first run, 650 MB).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import DDIMScheduler

from benchmarks.corruptions import CORRUPTIONS, SEMANTIC_KINDS
from benchmarks.evaluate import (
    CLASSICAL,
    CorruptedCase,
    Mask,
    Method,
    Summary,
    compare,
    comparison_table,
    evaluate,
    make_cases,
    summarise,
    summary_table,
)
from benchmarks.figures import contact_sheet, plot_kinds
from benchmarks.report import RESULTS, Estimate, markdown_table, read_result, write_result
from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.imaging.edges import EdgeSettings, sharpen
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings, Mode
from training.demo.captions import NAMES, CaptionEncoder
from training.demo.gate import gate_cases, text_gate
from training.demo.pool import ScenePool
from training.demo.scenes import DemoScene, compose_scene
from training.demo.sources import load_sources
from training.demo.train_vae import to_unit

TEST_SEED, VALIDATION_SEED = 100_000, 200_000
BEFORE_EDGES, OURS, SEMANTIC = "G4Seg before edges", "G4Seg + edges", SEMANTIC_KINDS
GUARDED, WITHOUT_TEXT, FAST = "G4Seg + edges + guard (default)", "default, without text evidence", "preset fast"
WITHOUT_INJECTION = "no injection + edges"


@click.command()
@click.option("--scenes", default=200, show_default=True, help="Scenes; each gives up to four masks.")
@click.option("--validation", is_flag=True, help="Use the validation scenes and write nothing.")
@click.option("--bundle", type=click.Path(path_type=Path), help="[default: the shipped demo bundle]")
@click.option("--only", multiple=True, help="Measure only these of our methods, besides the default.  [default: all]")
@click.option("--keep", is_flag=True, help="With --only: measure nothing else, and keep the other rows of the result.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, validation: bool, bundle: Path | None, only: tuple[str, ...], keep: bool, cache: Path) -> None:
    """Measure the quality of refined masks."""
    known = read_result("quality") if keep else {}
    if keep and (not only or validation or known.get("scenes") != scenes):
        raise click.UsageError(f"--keep takes --only, and a result of {scenes} test scenes")
    sources = load_sources(cache, held_out=True)
    first = VALIDATION_SEED if validation else TEST_SEED
    composed = [compose_scene(np.random.default_rng(first + i), sources) for i in range(scenes)]
    cases = [case for i, scene in enumerate(composed) for case in cases_of(scene, first + i)]
    every, close = _our_methods(bundle or demo_bundle())
    wanted = {*only, *(() if keep else (GUARDED,))}
    methods = {name: run for name, run in every.items() if not only or name in wanted}
    outcomes = evaluate(cases, {} if keep else CLASSICAL) | evaluate(cases, methods)
    close()
    found = {name: _read_summary(row) for name, row in known.get("summaries", {}).items()} | summarise(cases, outcomes)
    summaries = {name: found[name] for name in [*CLASSICAL, *every] if name in found}
    gate, ratio = (known["text_gate"], known["text_ratio"]) if keep else _text_gate(composed)
    injection = compare(cases, outcomes, WITHOUT_INJECTION) if WITHOUT_INJECTION in outcomes else {}
    bars = _bars(summaries, injection[OURS]["all"] if injection and OURS in outcomes else None, gate)
    markdown = "\n\n".join(
        [
            "# Quality of refined masks",
            f"{len(cases)} corrupted masks of {scenes} held-out scenes, one fixed setting. IoU with the true mask.",
            summary_table(summaries),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
            *_describe_pairs({name: injection[name] for name in methods if name in injection}),
            f"Text gate: the right label beats a wrong one in {gate:.1%} of {len(composed)} scenes; "
            f"error with the wrong label is {ratio:.3f} times that with the right one.",
            "![mean IoU by kind](quality.png)",
        ]
    )
    click.echo(markdown)
    if not validation:
        RESULTS.mkdir(exist_ok=True)
        data = {"summaries": summaries, "bars": bars, "text_gate": gate, "text_ratio": ratio}
        data |= {"masks": len(cases), "scenes": scenes}
        plot_kinds(summaries, RESULTS / "quality.png")
        if not keep:
            shown = {name: outcomes[name] for name in ("grabcut", GUARDED)}
            contact_sheet(cases, shown, GUARDED, RESULTS / "quality_cases.png")
        write_result("quality", data, markdown)


def _read_summary(row: dict[str, Any]) -> Summary:
    """The figures of a method in a result."""
    return Summary(**row | {"mean": Estimate(**row["mean"])})


def _describe_pairs(pairs: dict[str, dict[str, Estimate]]) -> list[str]:
    return ["## Paired differences", comparison_table(pairs, WITHOUT_INJECTION)] if pairs else []


def cases_of(scene: DemoScene, number: int) -> list[CorruptedCase]:
    """Up to four masks of a scene: two kinds in turn, and the two semantic ones where they apply."""
    others = [kind for kind in CORRUPTIONS if kind not in SEMANTIC]
    kinds = [others[(2 * number + i) % len(others)] for i in range(2)] + list(SEMANTIC)
    labels = [NAMES[c] for c in scene.classes]
    return make_cases(scene.image, scene.instances, labels, scene=number, kinds=kinds)


def _our_methods(bundle: Path) -> tuple[dict[str, Method], Callable[[], None]]:
    """Our method, its ablations, and what closes their engines."""
    refiner = Refiner.from_bundle(bundle)
    base = refiner.settings

    papers: dict[int, Mask] = {}

    def refine(settings: G4SegSettings) -> Method:
        changed = refiner.derive(settings=settings)
        return lambda case: changed(case.image, case.coarse, case.label, crop=False, guard=False).mask

    def ours(case: CorruptedCase) -> Mask:
        result = refiner(case.image, case.coarse, case.label, crop=False, guard=False)
        papers[id(case)] = result.paper_probability > 0.5
        return result.mask

    def edges_only(case: CorruptedCase) -> Mask:
        nothing_gained = np.zeros_like(case.coarse)
        return sharpen(case.image, case.coarse, nothing_gained, EdgeSettings()) > 0.5

    other_mode: Mode = "loop" if base.mode == "one-step" else "one-step"
    methods = {
        "edges only": edges_only,
        OURS: ours,
        GUARDED: lambda case: refiner(case.image, case.coarse, case.label).mask,
        WITHOUT_TEXT: lambda case: refiner(case.image, case.coarse, case.label, settings={"text_timesteps": ()}).mask,
        FAST: lambda case: refiner(case.image, case.coarse, case.label, settings="fast").mask,
        BEFORE_EDGES: lambda case: papers[id(case)],  # of the call before: what it costs is in OURS
        WITHOUT_INJECTION: refine(replace(base, self_strength=0.0, cross_strength=0.0, text_strengths=(0.0,))),
        "self only + edges": refine(replace(base, cross_strength=0.0, text_strengths=(0.0,))),
        "cross only + edges": refine(replace(base, self_strength=0.0)),
        f"{other_mode} + edges": refine(replace(base, mode=other_mode)),
    }
    return methods, refiner.close


def _bars(summaries: dict[str, Summary], injection: Estimate | None, gate: float) -> list[list[str]]:
    """One row for each bar of the project: figure, bar, measured, met."""
    ours, coarse = summaries[GUARDED], summaries["coarse"]
    classical = [summaries[name] for name in CLASSICAL if name != "coarse"]
    gain = ours.mean.mean - coarse.mean.mean
    least = min(ours.kinds[kind] - coarse.kinds[kind] for kind in ours.kinds)
    over_best = ours.mean_of_kinds - max(s.mean_of_kinds for s in classical)
    semantic = np.mean([ours.kinds[k] - max(s.kinds[k] for s in classical) for k in SEMANTIC])
    rows = [
        ("text gate", ">= 90 %", f"{gate:.1%}", gate >= 0.9),
        ("gain over the coarse mask, all masks", ">= +0.18", f"{gain:+.3f}", gain >= 0.18),
        ("least gain of a kind", ">= 0", f"{least:+.3f}", least >= 0),
        ("mean of kinds against the best classical tool", ">= 0, goal +0.03", f"{over_best:+.3f}", over_best >= 0),
        ("semantic kinds against the best classical tool", ">= +0.10", f"{semantic:+.3f}", semantic >= 0.1),
        ("masks made worse by more than 0.02", "<= 3 %", f"{ours.worse:.1%}", ours.worse <= 0.03),
    ]
    if injection:
        rows.append(("mask injection against none, paired", "> 0", str(injection), injection.mean > 0))
    if FAST in summaries:
        lost = summaries[FAST].mean.mean - ours.mean.mean
        rows.append(("preset fast against the default, mean IoU", ">= -0.01", f"{lost:+.3f}", lost >= -0.01))
    return [[figure, bar, measured, "yes" if met else "no"] for figure, bar, measured, met in rows]


def _text_gate(scenes: list[DemoScene]) -> tuple[float, float]:
    model = load_checkpoint(demo_checkpoint())
    pool = ScenePool.of(scenes)
    with torch.no_grad():
        latents = model.encode_image(to_unit(pool.images))
    alphas = DDIMScheduler.from_config(model.scheduler_config).alphas_cumprod
    cases = gate_cases(pool, latents, len(scenes))
    return text_gate(model.unet, model.text_encoder, CaptionEncoder(model.tokenizer), alphas, cases)


if __name__ == "__main__":
    main()
