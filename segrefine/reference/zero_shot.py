"""Zero-shot segmentation in PyTorch: the oracle of `segrefine.runtime.zero_shot`. Read beside `docs/zero_shot.md`.

1. Denoise the image in one step under each phrase, under null words, and under no words, at several noise levels. What
   explains a pixel better leaves a smaller error there (diffusion classifiers, arXiv 2303.16203; DiffEdit, arXiv
   2210.11427).
2. Read the cross-attention of the phrase's tokens and the self-attention, at little noise (DiffSegmenter, arXiv
   2309.02773; DAAM, arXiv 2210.04885).
3. Spread both signs along self-attention, standardise and add them (iSeg, arXiv 2409.03209, spreads likewise).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from segrefine.reference.attention import MaskInjection, inject_masks
from segrefine.reference.attention_maps import AttentionRecord, find_map_levels
from segrefine.reference.checkpoint import Checkpoint
from segrefine.reference.prompts import encode_in_context, encode_prompt
from segrefine.reference.text import Text, expand_text, predict
from segrefine.runtime.word_maps import Seen, WordMap, read_word_maps
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.runtime.words.narrative import label_of
from segrefine.runtime.zero_shot import choose_rivals
from segrefine.settings import ZeroShotSettings


class ZeroShot:
    """Training-free segmentation of phrases by a text-to-image diffusion model.

    Args:
        checkpoint: the model.
        settings: the method's numbers.
    """

    def __init__(self, checkpoint: Checkpoint, settings: ZeroShotSettings) -> None:
        self.model, self.settings = checkpoint, settings
        self.injector = inject_masks(checkpoint.unet)
        self.scheduler = DDIMScheduler.from_config(checkpoint.scheduler_config)
        self.scheduler.set_timesteps(self.scheduler.config.num_train_timesteps)  # any level can be asked
        self.levels = find_map_levels(checkpoint.unet.config)

    @torch.no_grad()
    def segment(self, image: Tensor, phrases: Sequence[str], noise: Tensor) -> list[WordMap]:
        """Locate each phrase. Phrases that read alike, such as "fox" and "the Fox", are located once.

        Args:
            image: (1, 3, H, W) in [-1, 1]; H and W are multiples of the model's pixel grid.
            phrases: what to look for.
            noise: (levels, c, h, w), drawn from a standard normal distribution.
        """
        size = image.shape[2:]
        z0 = self.model.encode_image(image)
        noisy = [self.add_noise(z0, t, drawn) for t, drawn in zip(self.settings.text_timesteps, noise, strict=True)]
        plain = self.denoise(noisy, self.model.encode_text([""], size))
        asked = [self.encode_phrase(phrase, size) for phrase in phrases]
        # as rivals, phrases that read alike would take all evidence from each other
        firsts = [next(i for i, other in enumerate(asked) if read_alike(prompt, other)) for prompt in asked]
        distinct = sorted(set(firsts))
        rivals = choose_rivals([phrases[i] for i in distinct], self.settings, self.fits)
        prompts = [*(asked[i] for i in distinct), *(self.encode_phrase(word, size) for word in rivals)]
        attended = prompts[: len(distinct)]
        if not self.settings.attention_weight:  # what places attend to needs no words
            attended = [(self.model.encode_text([""], size), torch.zeros_like(prompts[0][1]))]
        looked = [self.attend(z0, text, indicator, noise[:1]) for text, indicator in attended]
        words = np.concatenate([words.numpy(force=True) for words, _ in looked])
        seen = Seen(
            evidence=np.stack([self.explain(z0, self.denoise(noisy, text), plain) for text, _ in prompts]),
            error=self.weigh(plain - z0),
            words=np.broadcast_to(words, (len(distinct), *words.shape[1:])),
            places=torch.cat([places for _, places in looked]).mean(0).numpy(force=True),
        )
        maps = dict(zip(distinct, read_word_maps(seen, self.settings), strict=True))
        return [maps[i] for i in firsts]

    def encode_phrase(self, phrase: str, size: Sequence[int]) -> tuple[Text, Tensor]:
        """The prompt that names a phrase, and its token indicator (1, tokens, 2): phrase, other words."""
        if self.settings.context and isinstance(phrase, CaptionedPhrase):
            return encode_in_context(self.model, phrase, size)
        return encode_prompt(self.model, self.settings.template, label_of(phrase), size)

    def fits(self, word: str) -> bool:
        """Return whether the text encoder takes a word as a whole."""
        ids = self.model.tokenizer(self.settings.template.format(label=word)).input_ids
        return len(ids) <= self.model.tokenizer.model_max_length

    def explain(self, z0: Tensor, named: Tensor, plain: Tensor) -> np.ndarray:
        """Step 1: how much better a prompt explains each pixel than no words do, (h, w).

        Args:
            z0: (1, c, h, w) latents of the image.
            named: (levels, c, h, w) clean latents that are predicted under the prompt.
            plain: the same without words.
        """
        changed = np.float32(self.settings.text_effect) * self.weigh(named - plain)
        evidence: np.ndarray = self.weigh(plain - z0) - self.weigh(named - z0) + changed
        return evidence

    def weigh(self, difference: Tensor) -> np.ndarray:
        """The mean square (h, w) of a difference of clean latents (levels, c, h, w), in units of v-prediction."""
        alphas = self.scheduler.alphas_cumprod[list(self.settings.text_timesteps)].to(difference)
        weighed: np.ndarray = (difference.square().mean(1) / (1 - alphas[:, None, None])).mean(0).numpy(force=True)
        return weighed

    def attend(self, z0: Tensor, text: Text, indicator: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Step 2: attention of the phrase's tokens (1, rows, columns), and of the places to each other (1, N, N)."""
        t = self.settings.attention_timestep
        noisy = self.add_noise(z0, t, noise[0])
        nowhere = MaskInjection(
            foreground=torch.zeros_like(z0[:, :1]), token_indicator=indicator, strength=torch.zeros(1, 2)
        )
        record = AttentionRecord(levels=self.levels, depth=len(self.model.unet.down_blocks))
        with self.injector.apply(nowhere, record):
            predict(self.model.unet, noisy, torch.tensor([t]), text)
        return record.maps(z0.shape[2:])

    def denoise(self, noisy: Sequence[Tensor], text: Text) -> Tensor:
        """Clean latents (levels, c, h, w), in one step each from the noisy ones (1, c, h, w) of every level."""
        return torch.cat(
            [self.denoise_level(sample, t, text) for t, sample in zip(self.settings.text_timesteps, noisy, strict=True)]
        )

    def denoise_level(self, sample: Tensor, t: int, text: Text) -> Tensor:
        """Clean latents (1, c, h, w), in one step from `sample` at level t."""
        output = predict(self.model.unet, sample, torch.full((1,), t), expand_text(text, 1))
        clean: Tensor = self.scheduler.step(output, t, sample).pred_original_sample
        return clean

    def add_noise(self, z0: Tensor, t: int, noise: Tensor) -> Tensor:
        """The latents at noise level t, (1, c, h, w)."""
        noisy: Tensor = self.scheduler.add_noise(z0, noise[None], torch.tensor([t]))
        return noisy


def read_alike(prompt: tuple[Text, Tensor], other: tuple[Text, Tensor]) -> bool:
    """Return whether two prompts are the same to the UNet: all their tensors are equal."""
    texts_equal = all(torch.equal(values, other[0][name]) for name, values in prompt[0].items())
    return texts_equal and torch.equal(prompt[1], other[1])
