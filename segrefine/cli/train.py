"""`segrefine train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from segrefine.cli.console import Console, with_console
from segrefine.cli.model_options import split_names
from segrefine.cli.paths import GivenPath
from segrefine.errors import MissingDependencyError
from segrefine.export.sources import find_model, torch_imports


def _choice(*values: str) -> click.Choice[str]:
    return click.Choice(list(values))


@click.command(short_help="Train a label diffusion model on your own data.")
@click.argument("data", type=GivenPath())
@click.argument("output", type=GivenPath())
@click.option(
    "--from",
    "base",
    required=True,
    metavar="MODEL",
    help="Model to start from: tiny, photo-gs, a folder, a file or a hub id.",
)
@click.option("--also", multiple=True, metavar="PATH[=WEIGHT]", help="Another data set; can be repeated.")
@click.option(
    "--weight",
    type=float,
    default=1.0,
    show_default=True,
    help="Sampling weight of DATA against the data sets of --also.",
)
@click.option("--images", type=GivenPath(), help="Folder of DATA's images.  [default: the data's own]")
@click.option("--split", default="train", show_default=True, help="Split that is read, if DATA is a benchmark.")
@click.option("--classes", metavar="NAME|FILE", help="Class list of DATA's label maps.  [default: the data's own]")
@click.option("--validation", type=GivenPath(),
              help="Data set for validation.  [default: the share --held-out of the data]")  # fmt: skip
@click.option(
    "--held-out",
    type=click.FloatRange(0, 0.9),
    default=0.05,
    show_default=True,
    help="Share of the data that is used for validation.",
)
@click.option("--steps", type=int, default=20_000, show_default=True, help="Optimizer steps.")
@click.option(
    "--batch", type=int, default=32, show_default=True, help="Samples of an optimizer step, over all processes."
)
@click.option("--phrases", type=int, default=2, show_default=True, help="Phrases drawn for each image of a batch.")
@click.option(
    "--accumulate",
    type=int,
    default=1,
    show_default=True,
    help="Gradient accumulation: parts in which each process computes its samples.",
)
@click.option("--learning-rate", type=float, default=1e-4, show_default=True, help="Peak rate of AdamW.")
@click.option("--recipe", type=_choice("end-to-end", "diffusion", "both"), default="end-to-end", show_default=True,
              help="Loss: on the decoded mask (end-to-end), on latents of all noise levels (diffusion), or both "
                   "in turn.")  # fmt: skip
@click.option("--own-share", type=float, default=0.25, show_default=True,
              help="Share of samples that also train a lower noise level, from the model's own mask.")  # fmt: skip
@click.option(
    "--class-loss",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of a loss on the class of every pixel; needs --train-image.",
)
@click.option("--prediction", type=_choice("sample", "v_prediction", "epsilon"),
              help="Quantity that the denoiser predicts.  [default: the model's own, or sample]")  # fmt: skip
@click.option(
    "--codec", type=_choice("area", "vae"), help="Codec between masks and latents.  [default: the model's own]"
)
@click.option(
    "--fold", type=int, help="Mask cells along each side of a latent pixel, for the area codec: 1, 2, 4 or 8."
)
@click.option("--side", type=int, help="Longer image side in pixels.  [default: the model's own]")
@click.option("--drop-image", type=float, default=0.05, show_default=True, help="Share of samples without image.")
@click.option("--drop-phrase", type=float, default=0.05, show_default=True, help="Share of samples without phrase.")
@click.option("--lora", type=int, default=0, show_default=True, help="Rank of LoRA adapters; 0 trains all weights.")
@click.option("--lora-targets", callback=split_names, metavar="A,B,…", help="Layers that get adapters.")
@click.option("--train-text/--no-train-text", default=True, show_default=True, help="Train the text encoder.")
@click.option("--train-image", is_flag=True, help="Train the image encoder too; only with the area codec.")
@click.option("--new-words/--no-new-words", default=True, show_default=True,
              help="Add tokens for the words of class names, if the vocabulary is small.")  # fmt: skip
@click.option("--augmentation", type=_choice("none", "light", "strong"), default="strong", show_default=True,
              help="Strength of image augmentation.")  # fmt: skip
@click.option("--paste", type=float, default=0.4, show_default=True, help="Share of images with a pasted object.")
@click.option("--mosaic", type=float, default=0.15, show_default=True, help="Share of samples that join two images.")
@click.option("--closed-world", is_flag=True, help="Treat a class without annotation as absent from the image.")
@click.option("--context", is_flag=True, help="Encode each phrase of a caption with the words before it.")
@click.option("--precision", type=_choice("fp32", "bf16", "fp16"), default="fp32", show_default=True,
              help="Number format that the networks compute in.")  # fmt: skip
@click.option(
    "--checkpointing", is_flag=True, help="Gradient checkpointing: compute activations twice, to save memory."
)
@click.option("--compile", is_flag=True, help="Compile the denoiser.")
@click.option(
    "--optimizer",
    type=_choice("adamw", "adamw8bit"),
    default="adamw",
    show_default=True,
    help="AdamW, or AdamW with 8-bit states.",
)
@click.option("--ema", type=float, default=0.999, show_default=True, help="Decay of the averaged weights; 0 for none.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--workers", type=int, default=1, show_default=True, help="Threads that prepare batches.")
@click.option(
    "--validation-limit", type=int, default=200, show_default=True, help="Most images that are used for validation."
)
@click.option("--save-minutes", type=float, default=5, show_default=True, help="Minutes between saved states.")
@click.option("--validate-minutes", type=float, default=15, show_default=True, help="Minutes between validations.")
@click.option("--cpu", is_flag=True, help="Train on the CPU, even if there is a GPU.")
@click.option("--resume", is_flag=True, help="Continue the run in OUTPUT, with the same options.")
@click.option("--ignore-memory", is_flag=True, help="Start even if the memory seems too small.")
@with_console
def train(console: Console, /, data: Path, output: Path, base: str, **values: Any) -> None:
    """Train a label diffusion model on DATA, and write it to OUTPUT/checkpoint.

    DATA is a folder or JSON that `segrefine batch` reads, a folder with phrases.json, the narratives of Panoptic
    Narrative Grounding, or the expressions of RefCOCO. For several GPUs, run `accelerate launch -m segrefine.cli train`
    instead of `segrefine train`.
    """
    found = None if base == "tiny" else find_model(base)
    with console.progress(f"training {output.name}", long=True) as tell, console.resumable():
        tell("loading PyTorch", None)
        with _train_imports(), torch_imports("training"):
            from segrefine.train.options import TrainOptions
            from segrefine.train.part import Part
            from segrefine.train.run import TrainingJob, train
            from segrefine.train.sources import SourceSpec
        part = Part(split=values.pop("split"), classes=values.pop("classes"))
        sets = [SourceSpec(place=data, weight=values.pop("weight"), images=values.pop("images"), part=part)]
        sets += [SourceSpec.parse(text) for text in values.pop("also")]
        validation = values.pop("validation")
        job: dict[str, Any] = {name: values.pop(name) for name in ("resume", "ignore_memory", "cpu")}
        job["held_share"] = values.pop("held_out")
        job["validation"] = SourceSpec(place=validation, part=replace(part, split="val")) if validation else None
        if not values["lora_targets"]:
            del values["lora_targets"]
        done = train(
            TrainingJob(data=sets, output=output, options=TrainOptions(model=base, **values), model=found, **job),
            tell,
            console.warn,
        )
    if done.pop("is_main"):
        console.result(done, _conclude(output, done))


@contextmanager
def _train_imports() -> Iterator[None]:
    """A context in which a missing package of the extra `[train]` is an error that names the extra."""
    try:
        yield
    except MissingDependencyError:
        raise
    except ImportError as error:
        message = f"training needs {error.name}, which is not installed"
        raise MissingDependencyError(message, hint='pip install "segrefine[train]"') from error


def _conclude(output: Path, done: dict[str, Any]) -> str:
    """Summarise the run, and give the two commands that export and try the model."""
    figures = done["validation"] or {}
    words = [f"mean IoU {done['best_miou']:.3f} at best"] if figures.get("images") else []
    if figures.get("wrong_word") is not None:
        words.append(f"wrong words accepted {figures['wrong_word']:.0%}")
    phrase = f"the {done['classes'][0]}" if done["classes"] else "your phrase"
    return "\n".join(
        [
            f"{done['steps']} steps done; {', '.join(words) or 'no validation'}",
            f"the best model: {done['checkpoint']}",
            f"export it: segrefine export {done['checkpoint']} {output}/bundle",
            f'try it:    segrefine segment photo.png "{phrase}" --bundle {output}/bundle -o mask.png',
        ]
    )
