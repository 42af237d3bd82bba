"""A whole training run: data, model, memory, steps, and the checkpoint at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler

from segrefine.errors import OutputError, SettingsError
from segrefine.reference.weight_files import Model
from segrefine.storage import output_errors
from segrefine.train.batches import BatchMaker, TextEncoder
from segrefine.train.checks import check_data, without_long_phrases
from segrefine.train.memory import check_memory, estimate
from segrefine.train.model import open_model
from segrefine.train.networks import TINY_SIDE
from segrefine.train.options import OPTIONS, TrainOptions, check_options, note_options
from segrefine.train.prepared import Mixture, Prepared, prepare
from segrefine.train.scenes import TrainingScene
from segrefine.train.sources import SourceSpec
from segrefine.train.state import STATE
from segrefine.train.trainee import Trainee
from segrefine.train.trainer import CHECKPOINT, TRAINING, Trainer, new_accelerator
from segrefine.train.validation import split_off

Tell = Callable[[str, float | None], None]
_SIDE_GUESS = 512
"""Side of images while the model's own is not known yet."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Parts of a training run.

    Attributes:
        data: the data sets.
        output: folder of the run.
        options: all its options.
        model: the checkpoint that it starts from; None for a new tiny one.
        validation: data set for validation; None holds a share of the data out.
        held_share: that share.
        resume: whether the run in the folder is continued.
        ignore_memory: whether it starts even if memory is too small.
        cpu: whether it uses the CPU even if there is a GPU.
    """

    data: Sequence[SourceSpec]
    output: Path
    options: TrainOptions
    model: Model | None
    validation: SourceSpec | None = None
    held_share: float = 0.05
    resume: bool = False
    ignore_memory: bool = False
    cpu: bool = False

    def describe_data(self) -> dict[str, Any]:
        """Describe the data that the run depends on besides its options, as JSON values."""
        places = [[str(spec.place.resolve()), spec.weight, *spec.part.describe()] for spec in self.data]
        held = str(self.validation.place.resolve()) if self.validation else self.held_share
        return {"data": places, "validation": held}


def train(job: TrainingJob, tell: Tell, warn: Callable[[str], None]) -> dict[str, Any]:
    """Train a label diffusion model; returns what was done, as JSON values.

    Args:
        job: what the run is made of.
        tell: takes a line of progress, and the share that is done.
        warn: takes a line about data that cannot be used.

    Raises:
        SegrefineError: data, options, memory or disk do not allow the run.
    """
    engine = open_run(job, tell, warn)
    resumed = engine.done
    engine.run()
    report = engine.report
    return {
        "checkpoint": str(job.output / CHECKPOINT), "steps": engine.done, "resumed_at": resumed,
        "best_miou": engine.best, "validation": report.to_dict() if report else None, "classes": list(engine.classes),
        "is_main": engine.accelerator.is_main_process,
    }  # fmt: skip


def open_run(job: TrainingJob, tell: Tell, warn: Callable[[str], None]) -> Trainer:
    """The engine of a run, ready for its next step; see `train`."""
    accelerator = new_accelerator(job.options, cpu=job.cpu)
    folder = job.output / TRAINING
    side = job.options.side or _model_side(job)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            _claim(job, folder)
        parts = [prepare(spec, folder / "cache", side, tell) for spec in job.data]
        held = prepare(job.validation, folder / "cache", side, tell) if job.validation else None
    mixture, held_out = _split(job, parts, held)
    tell("loading the model", None)
    model = open_model(job.model, job.options, mixture.classes, folder / f"words-{accelerator.process_index}")
    texts = TextEncoder(dict(model.checkpoint.tokenizers))
    mixture = check_data(mixture, texts, warn if accelerator.is_main_process else lambda line: None)
    held_out = [without_long_phrases(scene, texts.fits) for scene in held_out]
    alphas = DDIMScheduler.from_config(model.checkpoint.scheduler_config).alphas_cumprod
    trainee = Trainee(model, job.options, alphas, len(mixture.classes))
    batches = BatchMaker(mixture=mixture, model=model, options=job.options)
    if not job.resume:
        _check_memory(job, trainee, batches, accelerator, tell)
    return Trainer(
        options=job.options, model=model, trainee=trainee, batches=batches, held_out=held_out,
        classes=mixture.classes, output=job.output, accelerator=accelerator, tell=tell,
    )  # fmt: skip


def _model_side(job: TrainingJob) -> int:
    """The side of training images, as far as it is known before the model is opened."""
    if job.model is None:
        return TINY_SIDE
    from segrefine.reference.configs import pixels_per_latent, read_configs

    parts = read_configs(job.model).parts
    denoiser = parts.get("unet") or parts["label_denoiser"]
    factor = pixels_per_latent(parts["vae"])
    return int(denoiser.get("sample_size") or _SIDE_GUESS // factor) * factor


def _claim(job: TrainingJob, folder: Path) -> None:
    """Note the options in the run's folder, or check those that are noted there.

    Raises:
        OutputError: the folder holds another run, or something else.
    """
    file, begun = folder / OPTIONS, (folder / STATE).is_file() or (job.output / CHECKPOINT).is_dir()
    if job.resume:
        if not file.is_file():
            raise OutputError("there is no training run to resume", subject=job.output, hint="leave --resume out")
        check_options(file, job.options, job.describe_data())
        return
    if begun:
        raise OutputError(
            "the folder holds a training run", subject=job.output, hint="add --resume, or choose another folder"
        )
    if job.output.exists() and not (job.output.is_dir() and {path.name for path in job.output.iterdir()} <= {TRAINING}):
        raise OutputError("the folder is not empty", subject=job.output, hint="choose a new folder")
    with output_errors(folder):
        note_options(file, job.options, job.describe_data())


def _split(job: TrainingJob, parts: Sequence[Prepared], held: Prepared | None) -> tuple[Mixture, list[TrainingScene]]:
    """The data that is trained on, and the scenes of validation."""
    o = job.options
    if held is not None:
        mixture = Mixture(parts=parts, closed_world=o.closed_world)
        known = frozenset(mixture.classes) if o.closed_world else frozenset(held.labels)
        rows = split_off(len(held.scenes), 1.0, o.validation_limit, o.seed)[1]
        return mixture, [replace(held.read(row), known=known) for row in rows]
    whole = Mixture(parts=parts, closed_world=o.closed_world)
    kept, scenes = [], []
    for number, part in enumerate(parts):
        rows, out = split_off(len(part.scenes), job.held_share, max(1, o.validation_limit // len(parts)), o.seed)
        scenes += [whole.read(number, row) for row in out]
        kept.append(replace(part, scenes=[part.scenes[row] for row in rows]))
    return Mixture(parts=kept, closed_world=o.closed_world), scenes


def _check_memory(
    job: TrainingJob, trainee: Trainee, batches: BatchMaker, accelerator: Accelerator, tell: Tell
) -> None:
    """Estimate the memory, and refuse a run that does not fit."""
    tell("estimating memory", None)
    o = job.options
    parts, images = o.accumulate * accelerator.num_processes, o.batch // o.phrases
    if images % parts:
        raise SettingsError(
            subject="batch",
            expected=f"a multiple of {parts} images, for as many parts",
            got=f"{images} images",
            hint=f"such as --batch {-(-images // parts) * parts * o.phrases}",
        )
    batch = batches.make(0, 0, parts)
    memory = estimate(trainee, batch, o)
    tell(f"memory: {memory}", None)
    if accelerator.device.type == "cuda":
        available = torch.cuda.mem_get_info(accelerator.device)[0]
    else:
        available = psutil.virtual_memory().available // accelerator.num_processes
    if not job.ignore_memory:
        check_memory(memory, available, o)
