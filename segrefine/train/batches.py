"""Batches of training samples. A batch depends on the seed and the step alone, so a resumed run draws the same ones."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from transformers import CLIPTokenizer

from segrefine.reference.context import tokenize
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.train.augment import STRENGTHS, Augmenter
from segrefine.train.levels import draw_levels, draw_lower_levels
from segrefine.train.model import LabelModel
from segrefine.train.options import TrainOptions
from segrefine.train.prepared import Mixture
from segrefine.train.scenes import TrainingScene
from segrefine.train.templates import AskedPhrase, draw_phrases

_ASPECTS = (1.0, 0.75, 4 / 3)
"""Shapes of training images, width over height."""
_LEVELS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Training samples: I images, B phrases of them, U texts that differ.

    Attributes:
        image: float32 (I, 3, H, W) in [-1, 1].
        owner: int64 (B,), the image of each sample.
        ids: int64 (U, tokens) for each tokenizer.
        order: int64 (U, tokens), the states of each text that the denoiser gets.
        text: int64 (B,), the text of each sample.
        mask: float32 (B, 1, H, W), 0 or 1.
        counted: float32 (B, 1, H, W), 1 for pixels that count.
        classes: int64 (I, H, W), 1 + number of the class of each pixel, 0 for none, -1 for pixels that do not count.
        kept: float32 (B, 1, 1, 1), 0 where the image is left out.
        level: int64 (B,), noise levels.
        lower: int64 (B,), lower levels; -1 where there is none.
        noise: float32 (B, C, h, w).
    """

    image: Tensor
    owner: Tensor
    ids: dict[str, Tensor]
    order: Tensor
    text: Tensor
    mask: Tensor
    counted: Tensor
    classes: Tensor
    kept: Tensor
    level: Tensor
    lower: Tensor
    noise: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        ids = {name: each.to(device) for name, each in self.ids.items()}
        tensors = {field.name: getattr(self, field.name).to(device) for field in fields(self) if field.name != "ids"}
        return Batch(ids=ids, **tensors)


class TextEncoder:
    """Texts → token ids, each text tokenised once. Several threads can use it.

    Args:
        tokenizers: by their folders.
        context: whether phrases of captions are read with the words before them.
    """

    def __init__(self, tokenizers: dict[str, CLIPTokenizer], *, context: bool = False) -> None:
        self._tokenizers, self._turn = copy.deepcopy(tokenizers), threading.Lock()
        self._context = context
        self._known: dict[str, dict[str, tuple[list[int], list[int]]]] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Token ids, int64 (texts, tokens), for each tokenizer, and the order of the states; see `Batch`."""
        asked = [text if self._context else str(text) for text in texts]
        with self._turn:  # one thread at a time can use a tokenizer
            for text in asked:
                if text not in self._known:
                    self._known[text] = {name: tokenize(each, text) for name, each in self._tokenizers.items()}
        found = {name: [self._known[text][name] for text in asked] for name in self._tokenizers}
        ids = {name: torch.tensor([each for each, _ in windows]) for name, windows in found.items()}
        return ids, torch.tensor([order for _, order in next(iter(found.values()))])

    @property
    def most(self) -> int:
        """The most tokens that a text may have, with start and end."""
        return min(int(tokenizer.model_max_length) for tokenizer in self._tokenizers.values())

    def count(self, text: str) -> int:
        """Count the tokens of a text, with start and end."""
        if text not in self._counts:
            with self._turn:
                self._counts[text] = max(
                    len(tokenizer(text, verbose=False).input_ids) for tokenizer in self._tokenizers.values()
                )
        return self._counts[text]

    def fits(self, text: str) -> bool:
        """Return whether the text encoders take a text as a whole."""
        return self.count(text) <= self.most


@dataclass(kw_only=True)
class BatchMaker:
    """Makes the batch of each step.

    Attributes:
        mixture: the data.
        model: the model, for its grid and its tokens.
        options: the run's options.
    """

    mixture: Mixture
    model: LabelModel
    options: TrainOptions

    def __post_init__(self) -> None:
        self.texts = TextEncoder(dict(self.model.checkpoint.tokenizers), context=self.options.context)
        self._classes = self.mixture.classes
        self._augment = Augmenter(
            strength=STRENGTHS[self.options.augmentation],
            paste=self.options.paste,
            mosaic=self.options.mosaic,
            draw=self.mixture.draw,
        )
        self._shapes = _shapes(self.model.side, self.model.multiple)

    def make(self, step: int, part: int, parts: int) -> Batch:
        """The samples of one step that one part of all processes' parts computes.

        Args:
            step: number of the step.
            part: number of the part.
            parts: how many there are; they share the images evenly.
        """
        o = self.options
        rng = np.random.default_rng([o.seed, step])
        height, width = self._shapes[int(rng.integers(len(self._shapes)))]
        images, count = o.batch // o.phrases, o.batch
        done = step / o.steps
        level = draw_levels(rng, count, _LEVELS, o.recipe, done)
        lower = np.where(rng.random(count) < o.own_share, draw_lower_levels(rng, count, _LEVELS), -1)
        kept = (rng.random(count) >= o.drop_image).astype(np.float32)
        named = rng.random(count) >= o.drop_phrase
        seeds = rng.integers(2**62, size=images)
        own = range(images * part // parts, images * (part + 1) // parts)
        scenes = [self._scene(np.random.default_rng(int(seeds[number])), height, width) for number in own]
        rows = np.concatenate([np.arange(number * o.phrases, (number + 1) * o.phrases) for number in own])
        asked = [each for _, phrases, *_ in scenes for each in phrases]
        texts = [each.text if named[row] else "" for each, row in zip(asked, rows, strict=True)]
        different = sorted(set(texts), key=_by_text)
        ids, order = self.texts(different)
        masks = np.stack([each.mask for each in asked])[:, None]
        counted = np.stack([valid for _, _, valid, _ in scenes]).repeat(o.phrases, 0)[:, None]
        return Batch(
            image=to_image(np.stack([image for image, *_ in scenes])),
            owner=torch.arange(len(own)).repeat_interleave(o.phrases),
            ids=ids,
            order=order,
            text=torch.tensor([different.index(text) for text in texts]),
            mask=torch.from_numpy((masks & counted).astype(np.float32)),
            counted=torch.from_numpy(counted.astype(np.float32)),
            classes=torch.from_numpy(np.stack([classes for *_, classes in scenes])),
            kept=torch.from_numpy(kept[rows]).view(-1, 1, 1, 1),
            level=torch.from_numpy(level[rows]),
            lower=torch.from_numpy(lower[rows]),
            noise=torch.from_numpy(self._noise(seeds, own, height, width)),
        )

    def _noise(self, seeds: np.ndarray, own: range, height: int, width: int) -> np.ndarray:
        factor = self.model.checkpoint.vae_scale_factor
        size = (self.options.phrases, self.model.checkpoint.codec.channels, height // factor, width // factor)
        drawn = [np.random.default_rng([1, int(seeds[number])]).standard_normal(size, np.float32) for number in own]
        return np.concatenate(drawn)

    def _scene(
        self, rng: Generator, height: int, width: int
    ) -> tuple[np.ndarray, list[AskedPhrase], np.ndarray, np.ndarray]:
        """An image, its phrases, the pixels that count, and the classes of all pixels."""
        scene = self._augment(rng, self.mixture.draw(rng), height, width)
        phrases = draw_phrases(rng, scene, self.options.phrases, self.mixture.shares, self.texts.fits)
        return scene.image, phrases, ~scene.ignored, class_map(scene, self._classes)


def _by_text(text: str) -> tuple[str, str, int]:
    """Return the sort key of texts: their words, then their captions."""
    return (str(text), text.caption, text.start) if isinstance(text, CaptionedPhrase) else (text, "", 0)


def _shapes(side: int, multiple: int) -> list[tuple[int, int]]:
    """Heights and widths of training images, multiples of the grid."""
    found = []
    for aspect in _ASPECTS:
        height, width = (side, side * aspect) if aspect <= 1 else (side / aspect, side)
        shape = tuple(max(multiple, round(each / multiple) * multiple) for each in (height, width))
        if shape not in found:
            found.append(shape)
    return found  # type: ignore[return-value]


def class_map(scene: TrainingScene, classes: Sequence[str]) -> np.ndarray:
    """The class of each pixel, int64 (H, W); see `Batch.classes`. Small regions lie on top of large ones."""
    found = np.where(scene.ignored, -1, 0)
    for region in sorted(scene.regions, key=lambda each: -int(each.mask.sum())):
        if region.label is not None:
            found[region.mask] = 1 + classes.index(region.label)
    return found


def to_image(pixels: np.ndarray) -> Tensor:
    """Images uint8 (n, H, W, 3) as float32 (n, 3, H, W) in [-1, 1].

    By NumPy: batches are made beside the training step, and a second thread that PyTorch computes in halves its speed.
    """
    values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    return torch.from_numpy(values / np.float32(127.5) - 1)
