"""`segrefine bench`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.batch import count_workers, share_of
from segrefine.cli.console import FAILED, Console, table, with_console
from segrefine.cli.options import (
    Model,
    SettingsChoice,
    crop_option,
    guard_option,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import check_output_folder
from segrefine.cli.paths import GivenPath
from segrefine.cli.reading import reading_options

if TYPE_CHECKING:
    from segrefine.datasets.notation import ReadingOptions
    from segrefine.evaluation.bench.benchmarks import BenchmarkSpec
    from segrefine.evaluation.bench.run import BenchOutcome, BenchPlan, Tell
    from segrefine.runtime.engine_set import PipelineSetup

_SHOWN = 5
_METHODS = "edge-step, grabcut, dense-crf"


@click.command(short_help="Run a complete published benchmark.")
@click.argument("name", metavar="NAME")
@click.argument("data", metavar="DATA", type=GivenPath(exists=True))
@click.option(
    "-o", "--output", metavar="DIR", type=GivenPath(file_okay=False),
    help="Folder for predictions and report.  [default: bench-NAME]",
)  # fmt: skip
@click.option(
    "--images", metavar="DIR", type=GivenPath(exists=True, file_okay=False),
    help="Folder of the images, if DATA does not have them.",
)  # fmt: skip
@click.option(
    "--compare", metavar="METHODS", default=_METHODS, show_default=True,
    help="Methods to compare with on the same coarse masks, or none.",
)  # fmt: skip
@click.option("--alone", is_flag=True, help="Refine each mask separately, not all masks of an image together.")
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Number of best cases on the sheet, and of worst cases.",
)
@click.option("--check", is_flag=True, help="Only say what DATA holds, and what is missing. No model runs.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: as many as there are cores]")
@click.option("--resume", is_flag=True, help="Continue a run with the same options that was stopped.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@click.option(
    "--ray", "address", metavar="[ADDRESS]", is_flag=False, flag_value="auto",
    help="Predict on a Ray cluster, as segrefine batch does.",
)  # fmt: skip
@click.option("--gpus", type=click.FloatRange(min=0), help="GPUs of each worker on the cluster.")
@guard_option
@crop_option
@settings_options
@reading_options
@model_options
@with_console
def bench(
    console: Console, name: str, data: Path, output: Path | None, images: Path | None, compare: str, alone: bool,
    cases: int, check: bool, workers: int | None, resume: bool, seed: int, address: str | None, gpus: float | None,
    guard: bool, crop: bool, choice: SettingsChoice, reading: ReadingOptions, model: Model,
) -> None:  # fmt: skip
    """Run the benchmark NAME on DATA: predict, measure by the official protocol, and compare with published figures.

    NAME is voc, voc20, context, context60, coco-object, coco-stuff, ade20k, cityscapes, davis, big, png, refcoco,
    refcoco+, refcocog or grefcoco. DATA is the folder into which its archives were unpacked (docs/data.md).

    With --coarse, the masks of another method are refined and compared before and after. Otherwise the model finds
    the masks: the classes by their names, or what each phrase names.

    The folder of --output gets bench.json, which can be cited, bench.md, a sheet of the best and worst cases, and all
    predictions. A run that was stopped continues with --resume.
    """
    from segrefine.batch.worker import Job
    from segrefine.evaluation.bench.benchmarks import find_spec
    from segrefine.evaluation.bench.report import write_report
    from segrefine.evaluation.bench.run import BenchPlan

    spec = find_spec(name)
    output = output or Path(f"bench-{name}")
    check_output_folder(output, {"DATA": data, "the folder of images": images})
    if gpus is not None and not address:
        raise click.UsageError("--gpus is for a cluster, with --ray; here --device chooses the GPU")
    job = Job(
        source=data.absolute(), images=images and images.absolute(), output=output.absolute(),
        setup=_setup(model, choice, spec), seed=seed, guard=guard, crop=crop, alone=alone, reading=reading,
    )  # fmt: skip
    names = [each.strip() for each in compare.split(",") if each.strip() not in ("", "none")]
    command = f"segrefine {shlex.join(console.words)}"
    plan = BenchPlan(spec=spec, job=job, compared=tuple(names), command=command)
    if check:
        _check(console, plan)
        return
    with console.resumable(), console.progress("bench", long=True) as told:

        def tell(method: str, number: int, total: int) -> None:
            told(method, number / total)

        outcome = _run(console, plan, workers, resume, tell, address, share_of(model, gpus) if address else None)
        values = write_report(outcome, cases)
    for warning in _warnings(values):
        console.warn(warning)
    console.result(values | {"output": str(output)}, _describe(values, output))
    if values["failures"] or values["unread"]:
        click.get_current_context().exit(FAILED)


def _check(console: Console, plan: BenchPlan) -> None:
    """Say what the data holds; fail where something is missing."""
    from segrefine.evaluation.bench.run import check_data

    values = check_data(plan)
    counts = [f"{values['images']} images", f"{values['masks']} with true masks"]
    counts += [f"{values['phrases']} phrases"] if values["phrases"] is not None else []
    for sentence in (*values["lacks"], *values["remarks"]):
        console.warn(sentence)
    console.result(values, f"{plan.spec.title}: {', '.join(counts)}")
    if values["lacks"]:
        click.get_current_context().exit(FAILED)


def _setup(model: Model, choice: SettingsChoice, spec: BenchmarkSpec) -> PipelineSetup:
    """Return the setup that opens the model. The default for phrases is a label diffusion model."""
    from segrefine.assets import photo_gs_bundle

    default = photo_gs_bundle() if spec.kind == "phrases" else None
    return replace(model, bundle=model.bundle or default).setup(choice)


def _run(
    console: Console, plan: BenchPlan, workers: int | None, resume: bool, tell: Tell, address: str | None, share: Any
) -> BenchOutcome:
    from segrefine.batch.cluster import connected
    from segrefine.engines import usable_cores
    from segrefine.evaluation.bench.run import run_bench

    if not address:
        count = workers or usable_cores()
        plan = replace(plan, job=plan.job.share_cores(count))
        return run_bench(plan, workers=count, resume=resume, tell=tell)
    with connected(address) as cluster:
        count = count_workers(console, cluster.room(share), workers, share)
        plan = replace(plan, job=plan.job.with_threads(int(share.cpus)))
        return run_bench(plan, workers=count, resume=resume, tell=tell, refine_all=cluster.refine_all(share))


def _warnings(values: Mapping[str, Any]) -> Sequence[str]:
    shown = [*values["lacks"], *values["remarks"]]
    for kind, what in (("failures", "failed"), ("unread", "cannot be compared")):
        shown += [f"{each} ({what})" for each in values[kind][:_SHOWN]]
        if (more := len(values[kind]) - _SHOWN) > 0:
            shown.append(f"{more} more images {what}; bench.json lists them")
    return shown


def _describe(values: Mapping[str, Any], output: Path) -> str:
    from segrefine.evaluation.bench.report import REPORT, SHEET, TABLE, to_rows

    header, lines = to_rows(values)
    files = [REPORT, TABLE, *([SHEET] if values["sheet"] else [])]
    facts = [
        f"benchmark   {values['title']}, {values['split']}; masks {values['masks_from']}",
        *(f"protocol    {name}: {source}" for name, source in values["protocols"].items()),
        f"wrote       {output}: {', '.join(files)}",
    ]
    return f"{table(header, lines)}\n\n" + "\n".join(facts)
