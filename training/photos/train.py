"""Trains `photo`: `python -m training.photos.train`, also by `make train-photo`. Resumes where a run was cut off."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.demo.captions import CaptionEncoder
from training.demo.networks import new_scheduler, use_plain_attention
from training.demo.train_vae import to_unit
from training.demo.training import TrainingLoop
from training.photos.compose import LabelledScene, SceneComposer
from training.photos.gate import QUICK, PhotoCases, photo_cases, photo_gate
from training.photos.model import CELL, load_networks, to_grid, write_start
from training.photos.pool import build_pool
from training.photos.questions import Question, ask
from training.photos.words import VOID

IMAGES, SEED = 12, 17
"""Images of a step. Each is seen under its right caption, under a second one and under none."""
EVIDENCE_WEIGHT, SHARPNESS = 1.0, 10.0
LEVELS = 150, 850
"""Noise levels where words matter."""

Batch = list[tuple[LabelledScene, Question]]


class PhotoTraining:
    """A training run of denoiser and text encoder.

    Args:
        run: folder of the run: its networks at the start, its state, its curve.
        composer: training scenes.
        cases: held-out cases of the text gate.
        learning_rate: before it falls.
    """

    def __init__(self, run: Path, composer: SceneComposer, cases: PhotoCases, learning_rate: float) -> None:
        self.run, self._cases = run, cases
        self._batches = _Batches(composer)
        unet, text_encoder, self.encoder, self.tokenizer = load_networks(run / "start")
        unet.to(memory_format=torch.channels_last)
        self.encoder.to(memory_format=torch.channels_last)
        self.networks = {"denoiser": unet.train(), "text_encoder": text_encoder.train()}
        use_plain_attention(unet, text_encoder)
        self._encode = CaptionEncoder(self.tokenizer)
        self.loop = TrainingLoop(
            networks=self.networks,
            step=self.step,
            gate=self.gate,
            batch=IMAGES,
            learning_rate=learning_rate,
            seed=SEED,
            state_file=run / "state.pt",
            decay=0.998,
            log_every=25,
            save_every=200,
            gate_every=600,
        )
        self._alphas = new_scheduler().alphas_cumprod
        self._parts: list[list[float]] = []

    def gate(self) -> str:
        """A line with the text gate of the averaged weights; one more line of `curve.jsonl`."""
        figures = photo_gate(self.loop.averages, self.encoder, self._encode, self._alphas, self._cases, QUICK)
        losses = dict(zip(("diffusion", "evidence"), np.mean(self._parts[-500:], 0).tolist(), strict=True))
        line = {"samples": self.loop.samples, "time": time.time(), **losses, **figures}
        with (self.run / "curve.jsonl").open("a") as file:
            file.write(json.dumps({key: round(value, 4) for key, value in line.items()}) + "\n")
        return " ".join(f"{key} {value:.3f}" for key, value in figures.items())

    def step(self, rng: np.random.Generator) -> Tensor:
        """The loss of IMAGES scenes, each under three captions."""
        scenes, questions = zip(*self._batches.take(self.loop.samples // IMAGES), strict=True)
        with torch.no_grad():
            latents = self.encoder(to_unit(np.stack([scene.image for scene in scenes])))
        timestep = torch.from_numpy(_draw_timesteps(rng, IMAGES))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        alpha = self._alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        states = self._states([q.right for q in questions] + [q.second for q in questions] + [""] * IMAGES)
        output = self.networks["denoiser"](noisy.repeat(3, 1, 1, 1), timestep.repeat(3), states).sample
        errors = (output - target.repeat(3, 1, 1, 1)).square().mean(1)
        sound = torch.tensor([True] * IMAGES + [bool(q.rivals) for q in questions] + [True] * IMAGES)
        evidence = _evidence_loss(errors, scenes, questions)
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.4)[:, 0].repeat(3, 1, 1)
        diffusion = (errors * weight)[sound].mean()
        self._parts.append([float(each.detach()) for each in (diffusion, evidence)])
        total: Tensor = diffusion + EVIDENCE_WEIGHT * evidence
        return total

    def _states(self, captions: list[str]) -> Tensor:
        unique = list(dict.fromkeys(captions))
        states = self.networks["text_encoder"](self._encode(unique)).last_hidden_state
        rows: Tensor = states[[unique.index(each) for each in captions]]
        return rows

    def summary(self) -> str:
        """The last parts of the loss."""
        return " ".join(f"{value:.3f}" for value in np.mean(self._parts[-25:], 0))


class _Batches:
    """The scenes of each step, composed ahead by another thread."""

    def __init__(self, composer: SceneComposer) -> None:
        self._composer, self._worker = composer, ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[Batch]] = {}

    def take(self, step: int) -> Batch:
        """The scenes of a step, each with its question."""
        for each in range(step, step + 3):
            if each not in self._ahead:
                self._ahead[each] = self._worker.submit(self._compose, each)
        return self._ahead.pop(step).result()

    def _compose(self, step: int) -> Batch:
        rng = np.random.default_rng([SEED, step, 1])
        scenes: Iterator[LabelledScene] = (self._composer.draw(rng) for _ in range(IMAGES))
        return [(scene, ask(rng, scene)) for scene in scenes]


def _evidence_loss(errors: Tensor, scenes: Sequence[LabelledScene], questions: Sequence[Question]) -> Tensor:
    """Cross-entropy of the text's evidence with what a caption names.

    The evidence is the error (B, h, w) that a caption takes away, as a share of the error without one. It should be
    above 0 on what the caption names, and below 0 elsewhere. Both count alike.
    """
    named, second, plain = errors.chunk(3)
    labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long()
    known = to_grid(labels != VOID)
    scale = SHARPNESS / plain.detach().mean((1, 2), keepdim=True)
    total = errors.new_zeros(())
    for found, numbers in ((named, [q.named for q in questions]), (second, [q.rivals for q in questions])):
        masks = [np.isin(scene.labels, each) for scene, each in zip(scenes, numbers, strict=True)]
        share = to_grid(torch.from_numpy(np.stack(masks)))
        losses = F.binary_cross_entropy_with_logits(scale * (plain - found), share, reduction="none")
        for weights in (share, (known - share).clamp(min=0)):
            total = total + (losses * weights).sum() / weights.sum().clamp(min=1)
    return total / 4


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Nine in ten where words matter, the others anywhere."""
    return np.where(rng.random(count) < 0.9, rng.integers(*LEVELS, count), rng.integers(0, 1000, count))


def prepare(run: Path, start: Path | None, side: int) -> None:
    """Write the networks that the run sets out from, once.

    Args:
        run: folder of the run.
        start: a checkpoint that an earlier run wrote; without one `photo-gs` is the start.
        side: of the scenes, in pixels; the denoiser's configuration notes it.
    """
    folder = run / "start"
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if start:
        shutil.copytree(start, folder)
    else:
        write_start(folder)
    config = folder / "unet/config.json"
    values = json.loads(config.read_text("utf-8")) | {"sample_size": side // CELL}
    config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    (folder / "done").touch()


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.option("--run", type=click.Path(path_type=Path), default=Path("runs/photo"), show_default=True)
@click.option(
    "--start", type=click.Path(path_type=Path, exists=True), help="Checkpoint to start from.  [default: photo-gs]"
)
@click.option("--side", default=128, show_default=True, help="Pixels of a scene along one side.")
@click.option("--samples", default=40_000, show_default=True, help="Images to train on, over all runs.")
@click.option("--learning-rate", default=6e-4, show_default=True, help="Of AdamW, before it falls.")
@click.option("--threads", default=2, show_default=True)
def main(
    photos: Path, run: Path, start: Path | None, side: int, samples: int, learning_rate: float, threads: int
) -> None:
    """Train `photo` on the photographs in PHOTOS, resuming what an earlier run left."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    composer = SceneComposer(build_pool(photos, run / "pool/train", split="train", side=side), side)
    cases = photo_cases(build_pool(photos, run / "pool/val", split="val", side=side), side)
    prepare(run, start, side)
    training = PhotoTraining(run, composer, cases, learning_rate)
    log(f"{len(cases.right)} cases, {training.loop.samples} samples so far")
    training.loop.run(samples, lambda line: log(f"{line} [{training.summary()}] cpu {time.process_time():.0f} s"))


def log(line: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    main()
