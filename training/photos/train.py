"""Trains `photo`: `python -m training.photos.train`, also by `make train-photo`. Resumes where a run was cut off."""

from __future__ import annotations

import json
import shutil
import time
from datetime import datetime
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from segrefine.assets import demo_checkpoint, demo_gs_checkpoint
from training.demo.captions import CaptionEncoder
from training.demo.networks import new_scheduler, use_plain_attention
from training.demo.train_vae import to_unit
from training.demo.training import TrainingLoop
from training.demo.vocabulary import fetch_bpe, prune_clip_vocabulary, write_tokenizer
from training.photos.classes import PhotoClassTraining, class_loss
from training.photos.compose import SceneComposer
from training.photos.gate import QUICK, PhotoCases, photo_cases, photo_gate
from training.photos.model import PhotoDenoiser, fold_vae, load_emoji, new_photo_text_encoder, new_photo_unet
from training.photos.pool import build_pool
from training.photos.questions import Question, ask
from training.photos.words import WORDS

IMAGES, LEARNING_RATE = 8, 1e-3
"""Images of a step. Each is seen under its right caption and under a second one."""
MARGIN, MARGIN_WEIGHT, CLASS_WEIGHT = 0.2, 2.0, 0.3


class PhotoTraining:
    """A training run of denoiser and text encoder.

    Args:
        run: folder of the run: its networks at the start, its state, its curve.
        composer: training scenes.
        cases: held-out cases of the text gate.
        class_samples: scenes of stage one, over all runs.
    """

    def __init__(self, run: Path, composer: SceneComposer, cases: PhotoCases, class_samples: int) -> None:
        self.run, self._composer, self._cases = run, composer, cases
        self.tokenizer = CLIPTokenizer.from_pretrained(run / "start/tokenizer")
        unet, text_encoder, _ = load_emoji(run / "start")
        self.vae = AutoencoderKL.from_pretrained(run / "start/vae").float().eval().requires_grad_(False)
        torch.manual_seed(1)
        denoiser = PhotoDenoiser(unet).train()
        if (head := run / "start/head.pt").exists():
            denoiser.head.load_state_dict(torch.load(head, weights_only=True))
        self.networks = {"denoiser": denoiser, "text_encoder": text_encoder.train()}
        use_plain_attention(unet, text_encoder)
        self._encode = CaptionEncoder(self.tokenizer)
        nothing = text_encoder(self._encode([""])).last_hidden_state
        classes = PhotoClassTraining(run, composer, cases, self.networks["denoiser"], self.vae, nothing)
        if not (run / "state.pt").exists():
            classes.loop.run(class_samples, log)
            self.networks["denoiser"].load_state_dict(classes.loop.averages["denoiser"].state_dict())
        self.loop = TrainingLoop(
            networks=self.networks,
            step=self.step,
            gate=self.gate,
            batch=IMAGES,
            learning_rate=LEARNING_RATE,
            seed=17,
            state_file=run / "state.pt",
            decay=0.995,
            log_every=20,
            save_every=50,
            gate_every=500,
        )
        self._alphas = new_scheduler().alphas_cumprod
        self._parts: list[list[float]] = []

    def gate(self) -> str:
        """A line with the text gate of the averaged weights; one more line of `curve.jsonl`."""
        figures = photo_gate(self.loop.averages, self.vae, self._encode, self._alphas, self._cases, QUICK)
        losses = dict(zip(("diffusion", "margin", "classes"), np.mean(self._parts[-500:], 0).tolist(), strict=True))
        line = {"samples": self.loop.samples, "time": time.time(), **losses, **figures}
        with (self.run / "curve.jsonl").open("a") as file:
            file.write(json.dumps({key: round(value, 4) for key, value in line.items()}) + "\n")
        return " ".join(f"{key} {value:.3f}" for key, value in figures.items())

    def step(self, rng: np.random.Generator) -> Tensor:
        """The loss of IMAGES scenes, each under two captions."""
        scenes = [self._composer.draw(rng) for _ in range(IMAGES)]
        questions = [ask(rng, scene) for scene in scenes]
        labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
        with torch.no_grad():
            latents = self.vae.encode(to_unit(np.stack([scene.image for scene in scenes]))).latent_dist.mean
        timestep = torch.from_numpy(_draw_timesteps(rng, IMAGES))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        alpha = self._alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        states = self._states([q.right for q in questions] + [q.second for q in questions])
        output, logits = self.networks["denoiser"](noisy.repeat(2, 1, 1, 1), timestep.repeat(2), states)
        errors = (output - target.repeat(2, 1, 1, 1)).square()
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.4) * (1 + _grid(labels > 0))
        sound = torch.tensor([True] * IMAGES + [q.sound for q in questions])
        diffusion = (errors * weight.repeat(2, 1, 1, 1))[sound].mean() / 0.6
        margin = _margin(errors.mean(1), labels, questions)
        classes = class_loss(logits[IMAGES:], labels)
        self._parts.append([float(each.detach()) for each in (diffusion, margin, classes)])
        total: Tensor = diffusion + MARGIN_WEIGHT * margin + CLASS_WEIGHT * classes
        return total

    def _states(self, captions: list[str]) -> Tensor:
        unique = list(dict.fromkeys(captions))
        states = self.networks["text_encoder"](self._encode(unique)).last_hidden_state
        rows: Tensor = states[[unique.index(each) for each in captions]]
        return rows

    def summary(self) -> str:
        """The last parts of the loss."""
        return " ".join(f"{value:.3f}" for value in np.mean(self._parts[-20:], 0))


def _margin(errors: Tensor, labels: Tensor, questions: list[Question]) -> Tensor:
    """Return how far the wrong caption's error in an object's region falls short of MARGIN above the right one's."""
    right, second = errors[: len(questions)], errors[len(questions) :]
    numbers = torch.tensor([q.target for q in questions])[:, None, None]
    losses = _shortfall(right, second, _grid(labels == numbers)[:, 0])
    rivals = torch.tensor([q.rival for q in questions])
    if not (chosen := rivals > 0).any():
        return losses.mean()
    regions = _grid(labels[chosen] == rivals[chosen][:, None, None])[:, 0]
    return torch.cat([losses, _shortfall(second[chosen], right[chosen], regions)]).mean()


def _shortfall(low: Tensor, high: Tensor, regions: Tensor) -> Tensor:
    area = regions.sum((1, 2)).clamp(min=1e-3)
    here, there = ((each * regions).sum((1, 2)) / area for each in (low, high))
    return (MARGIN - (there - here) / here.detach().clamp(min=1e-3)).clamp(min=0)


def _grid(mask: Tensor) -> Tensor:
    return F.avg_pool2d(mask[:, None].float(), 4)


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Nine in ten where words matter, the others anywhere."""
    return np.where(rng.random(count) < 0.9, rng.integers(100, 750, count), rng.integers(0, 1000, count))


def prepare(run: Path, composer: SceneComposer, start: Path | None) -> None:
    """Write the networks that the run sets out from, once.

    Args:
        run: folder of the run.
        composer: training scenes, for the image codec.
        start: a checkpoint that an earlier run wrote; without one the emoji models are the start.
    """
    folder = run / "start"
    if (folder / "done").exists():
        return
    if start:
        shutil.copytree(start, folder, dirs_exist_ok=True)
    else:
        write_tokenizer(folder / "tokenizer", *prune_clip_vocabulary(fetch_bpe(run), WORDS))
        unet, text_encoder, tokenizer = load_emoji(demo_checkpoint())
        wide = AutoencoderKL.from_pretrained(demo_gs_checkpoint() / "vae").float().eval()
        vae, down = fold_vae(wide, composer)
        vae.save_pretrained(folder / "vae")
        new_photo_unet(unet, down).save_pretrained(folder / "unet")
        words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        new_photo_text_encoder(text_encoder, tokenizer, words).save_pretrained(folder / "text_encoder")
    (folder / "done").touch()


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path), default=Path("runs/photo"), show_default=True)
@click.option(
    "--start", type=click.Path(path_type=Path, exists=True), help="Checkpoint to start from.  [default: emoji]"
)
@click.option("--samples", default=2_000_000, show_default=True, help="Images to train on, over all runs.")
@click.option("--class-samples", default=400_000, show_default=True, help="Scenes of stage one, over all runs.")
@click.option("--threads", default=1, show_default=True)
def main(photos: Path, run: Path, start: Path | None, samples: int, class_samples: int, threads: int) -> None:
    """Train `photo` on the photographs in PHOTOS, resuming what an earlier run left."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    composer = SceneComposer(build_pool(photos, run / "pool/train", split="train"))
    cases = photo_cases(build_pool(photos, run / "pool/val", split="val"))
    prepare(run, composer, start)
    training = PhotoTraining(run, composer, cases, class_samples)
    log(f"{len(cases.right)} cases, {training.loop.samples} samples so far")
    training.loop.run(samples, lambda line: log(f"{line} [{training.summary()}] cpu {time.process_time():.0f} s"))


def log(line: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    main()
