"""Trains the demo models from nothing: `python -m training.demo.train`, also by `make train-demo`.

Stages: scenes (8 minutes on two cores), image codec (12 minutes), latents (4 minutes), then denoiser and text encoder
for as long as it takes (over 40 samples a second). The label diffusion model sets out from these: scenes of its own, a
wider image codec and its latents (40 minutes), the classes (over 110 samples a second), then label denoiser and text
encoder (70 samples a second).
Every stage resumes where a run was cut off. The results are a Stable Diffusion folder and a label diffusion folder, in
half precision.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTokenizer

from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec
from segrefine.train.model import forget_origin
from training.demo.augment import SceneSource
from training.demo.captions import WORDS, CaptionEncoder
from training.demo.gate import gate_cases
from training.demo.label_gate import label_cases
from training.demo.networks import new_label_denoiser, new_label_scheduler, new_scheduler
from training.demo.pool import ScenePool, compose_pool
from training.demo.train_classes import ClassTraining
from training.demo.train_gs import LabelTraining
from training.demo.train_unet import DenoiserTraining, encode_pool
from training.demo.train_vae import train_vae
from training.demo.vocabulary import fetch_bpe, prune_clip_vocabulary, write_tokenizer

GATE_CASES = 512
TWINS = 0.4


@click.command()
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the folders `checkpoint` and `label-checkpoint` here  [default: CACHE]",
)
@click.option("--scenes", default=131072, show_default=True, help="Scenes to compose for training.")
@click.option("--vae-steps", default=3000, show_default=True, help="Codec steps of 16 images.")
@click.option("--wide-vae-steps", default=5000, show_default=True, help="Steps of the label model's wider codec.")
@click.option("--samples", default=1_000_000, show_default=True, help="Denoiser samples, over all runs.")
@click.option("--class-samples", default=200_000, show_default=True, help="Class samples, over all runs.")
@click.option("--label-samples", default=960_000, show_default=True, help="Label denoiser samples, over all runs.")
@click.option("--threads", default=2, show_default=True)
def main(
    cache: Path,
    output: Path | None,
    scenes: int,
    vae_steps: int,
    wide_vae_steps: int,
    samples: int,
    class_samples: int,
    label_samples: int,
    threads: int,
) -> None:
    """Train the demo models, resuming what an earlier run left in CACHE."""
    torch.set_num_threads(threads)
    run, output = cache / "run", output or cache
    tokenizer_folder = run / "tokenizer"
    if not tokenizer_folder.exists():
        write_tokenizer(tokenizer_folder, *prune_clip_vocabulary(fetch_bpe(cache), WORDS))
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    training = compose_pool(cache / "scenes/train", cache, scenes, held_out=False)
    vae = train_vae(training.images, run / "vae.pt", steps=vae_steps)
    denoiser = _train_denoiser(cache, training, vae, tokenizer, samples)
    networks = {"vae": vae, **denoiser.loop.averages}
    write_checkpoint(output / "checkpoint", networks, new_scheduler(), tokenizer_folder, MODEL_INDEX)
    if not label_samples:
        return
    pool = compose_pool(cache / "scenes/labels", cache, scenes, held_out=False, twins=TWINS)
    networks["vae"] = train_vae(pool.images, run / "wide-vae.pt", steps=wide_vae_steps, widened=vae)
    labels = _train_labels(cache, pool, networks, tokenizer, class_samples, label_samples)
    trained = labels.checkpoint()
    networks = {"vae": trained.vae, "label_denoiser": trained.label_denoiser, "text_encoder": trained.text_encoder}
    scheduler = new_label_scheduler(labels.prediction_type)
    folder = output / "label-checkpoint"
    write_checkpoint(folder, networks, scheduler, tokenizer_folder, LABEL_MODEL_INDEX, codec=labels.codec)


def _train_denoiser(
    cache: Path, scenes: ScenePool, vae: AutoencoderKL, tokenizer: CLIPTokenizer, samples: int
) -> DenoiserTraining:
    """Stage two: the text-to-image model."""
    run = cache / "run"
    held_out = compose_pool(cache / "scenes/held_out", cache, GATE_CASES, held_out=True)
    cases = gate_cases(held_out, encode_pool(vae, held_out, run / "latents-held-out.pt"), GATE_CASES)
    source = SceneSource(pool=scenes, latents=encode_pool(vae, scenes, run / "latents.pt"), vae=vae)
    training = DenoiserTraining(source=source, tokenizer=tokenizer, cases=cases, state_file=run / "denoiser.pt")
    training.loop.run(samples, log)
    return training


def _train_labels(
    cache: Path,
    scenes: ScenePool,
    networks: Mapping[str, Any],
    tokenizer: CLIPTokenizer,
    class_samples: int,
    samples: int,
) -> LabelTraining:
    """The last stages: classes, then the label diffusion model, on scenes in which classes repeat."""
    run, vae, text_encoder = cache / "run", networks["vae"], copy.deepcopy(networks["text_encoder"])
    held_out = compose_pool(cache / "scenes/labels-held_out", cache, GATE_CASES, held_out=True, twins=TWINS)
    source = SceneSource(pool=scenes, latents=encode_pool(vae, scenes, run / "wide-latents.pt"), vae=vae)
    held_out_latents = encode_pool(vae, held_out, run / "wide-latents-held-out.pt")
    codec = AreaCodec(fold=4, scale=0.25, vae_scale_factor=4)
    torch.manual_seed(2)
    classes = ClassTraining(
        source=source,
        denoiser=new_label_denoiser(codec.channels, networks["unet"]),
        nothing=text_encoder(CaptionEncoder(tokenizer)([""]))[0].detach(),
        held_out=held_out,
        held_out_latents=held_out_latents,
        state_file=run / "classes.pt",
    )
    classes.loop.run(class_samples, log)
    training = LabelTraining(
        source=source,
        tokenizer=tokenizer,
        codec=codec,
        probe=classes.loop.averages["probe"],
        text_encoder=text_encoder,
        cases=label_cases(held_out, held_out_latents, vae),
        state_file=run / "label-denoiser.pt",
    )
    training.loop.run(samples, log)
    return training


def log(line: str) -> None:
    """Prints a line with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def write_checkpoint(
    folder: Path,
    networks: Mapping[str, Any],
    scheduler: DDIMScheduler,
    tokenizer: Path,
    model_index: str,
    *,
    codec: AreaCodec | VaeCodec | None = None,
) -> None:
    """Writes a folder as diffusers does, weights in half precision, replacing `folder` when all of it is there.

    Args:
        folder: target.
        networks: the networks by the names of their subfolders; left as they are.
        scheduler: the noise schedule.
        tokenizer: folder with the tokenizer's files.
        model_index: content of `model_index.json`.
        codec: the label codec of a label diffusion model.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, network in networks.items():
        copy.deepcopy(network).half().save_pretrained(partial / name)
        forget_origin(partial / name / "config.json")
    scheduler.save_pretrained(partial / "scheduler")
    shutil.copytree(tokenizer, partial / "tokenizer")
    (partial / "model_index.json").write_text(model_index)
    if codec:
        write_codec(codec, partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


MODEL_INDEX = """{
  "_class_name": "StableDiffusionPipeline",
  "_diffusers_version": "0.42.1",
  "feature_extractor": [null, null],
  "safety_checker": [null, null],
  "requires_safety_checker": false,
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""
LABEL_MODEL_INDEX = """{
  "_class_name": "LabelDiffusionPipeline",
  "_diffusers_version": "0.42.1",
  "label_denoiser": ["diffusers", "UNet2DConditionModel"],
  "label_codec": ["segrefine", "AreaCodec"],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""

if __name__ == "__main__":
    main()
