"""Trains the demo model from nothing: `python -m segrefine.reference.demo.train`, also by `make train-demo`.

Stages: scenes (8 minutes on two cores), image codec (12 minutes), latents (4 minutes), then denoiser and text encoder
for as long as it takes (50 samples a second). Every stage resumes where a run was cut off. The result is a Stable
Diffusion folder in half precision.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from segrefine.reference.demo.captions import WORDS
from segrefine.reference.demo.gate import gate_cases
from segrefine.reference.demo.networks import new_scheduler
from segrefine.reference.demo.pool import compose_pool
from segrefine.reference.demo.train_unet import DenoiserTraining, encode_pool
from segrefine.reference.demo.train_vae import train_vae
from segrefine.reference.demo.vocabulary import fetch_bpe, prune_clip_vocabulary, write_tokenizer

GATE_CASES = 512


@click.command()
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write the checkpoint here  [default: CACHE/checkpoint]"
)
@click.option("--scenes", default=131072, show_default=True, help="Scenes to compose for training.")
@click.option("--vae-steps", default=3000, show_default=True, help="Codec steps of 16 images.")
@click.option("--samples", default=1_000_000, show_default=True, help="Denoiser samples, over all runs.")
@click.option("--threads", default=2, show_default=True)
def main(cache: Path, output: Path | None, scenes: int, vae_steps: int, samples: int, threads: int) -> None:
    """Train the demo model, resuming what an earlier run left in CACHE."""
    torch.set_num_threads(threads)
    run = cache / "run"
    tokenizer_folder = run / "tokenizer"
    if not tokenizer_folder.exists():
        write_tokenizer(tokenizer_folder, *prune_clip_vocabulary(fetch_bpe(cache), WORDS))
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    training = compose_pool(cache / "scenes/train", cache, scenes, held_out=False)
    held_out = compose_pool(cache / "scenes/held_out", cache, GATE_CASES, held_out=True)
    vae = train_vae(training.images, run / "vae.pt", steps=vae_steps)
    latents = encode_pool(vae, training, run / "latents.pt")
    cases = gate_cases(held_out, encode_pool(vae, held_out, run / "latents-held-out.pt"), GATE_CASES)
    denoiser = DenoiserTraining(
        scenes=training, latents=latents, tokenizer=tokenizer, cases=cases, state_file=run / "denoiser.pt"
    )
    denoiser.run(samples, log)
    write_checkpoint(output or cache / "checkpoint", vae, denoiser, tokenizer_folder)


def log(line: str) -> None:
    """Prints a line with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def write_checkpoint(folder: Path, vae: AutoencoderKL, denoiser: DenoiserTraining, tokenizer: Path) -> None:
    """Writes a Stable Diffusion folder, weights in half precision, replacing `folder` when all of it is there.

    Args:
        folder: target.
        vae: trained codec.
        denoiser: trained denoiser and text encoder; their averages are written.
        tokenizer: folder with the tokenizer's files.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    vae.half().save_pretrained(partial / "vae")
    denoiser.unet_average.half().save_pretrained(partial / "unet")
    denoiser.text_average.half().save_pretrained(partial / "text_encoder")
    new_scheduler().save_pretrained(partial / "scheduler")
    shutil.copytree(tokenizer, partial / "tokenizer")
    (partial / "model_index.json").write_text(MODEL_INDEX)
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

if __name__ == "__main__":
    main()
