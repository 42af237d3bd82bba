"""Changes of a checkpoint's networks: other input and output channels, and new words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

WORD_END = "</w>"
_PLAIN = re.compile("[a-z]+")
"""Words that the tokenizer does not split before it spells them; others stay in pieces."""
SMALL_VOCABULARY = 10_000
"""Tokens up to which a vocabulary is taken for a pruned one, which gets class names as single tokens."""


def replace_ends(denoiser: UNet2DConditionModel, *, label: int, image: int, kept: int, keeps: str) -> None:
    """Give a denoiser other input and output channels, in place. Old weights stay where they fit; new ones are zero.

    Args:
        denoiser: of image latents, or of label latents joined with them.
        label: channels of the new label latents, which come first.
        image: channels of the image latents.
        kept: channels of the old label latents; 0 where the denoiser took image latents alone.
        keeps: "image" where the old weights go on reading the image; "label" where they go on reading what is noisy.
    """
    old_in: Any = denoiser.conv_in
    old_out: Any = denoiser.conv_out
    conv_in = _conv_like(old_in, label + image, old_in.out_channels)
    conv_out = _conv_like(old_out, old_out.in_channels, label)
    with torch.no_grad():
        conv_in.weight.zero_()
        conv_in.bias.copy_(old_in.bias)
        if kept == label:
            conv_in.weight[:, :label] = old_in.weight[:, :label]
        if kept or keeps == "image":
            conv_in.weight[:, label:] = old_in.weight[:, kept : kept + image]
        elif keeps == "label":
            conv_in.weight[:, :label] = old_in.weight[:, :label]
        conv_out.weight.zero_()
        conv_out.bias.zero_()
        if (kept or image) == label and (kept or keeps == "label"):
            conv_out.weight.copy_(old_out.weight)
            conv_out.bias.copy_(old_out.bias)
    denoiser.conv_in, denoiser.conv_out = conv_in, conv_out
    denoiser.register_to_config(in_channels=label + image, out_channels=label)


def _conv_like(conv: nn.Conv2d, inputs: int, outputs: int) -> Any:
    """An untrained convolution of the same shape with other channels."""
    made = nn.Conv2d(inputs, outputs, conv.kernel_size, conv.stride, conv.padding)  # type: ignore[arg-type]
    return made.to(conv.weight.dtype)


def learn_words(folder: Path, target: Path, words: Sequence[str], encoder: CLIPTextModel, seed: int) -> list[str]:
    """Give a small vocabulary a token for each word that it spells in pieces; its text encoder grows in place.

    Merges of the pieces are added after all others, so that known words stay as they are. New rows of the embedding are
    random, as large as the old ones.

    Args:
        folder: of the tokenizer's files.
        target: where the new files go.
        words: lower-case words.
        encoder: the text encoder.
        seed: of the new rows.

    Returns:
        The words that are new.
    """
    shutil.copytree(folder, target, dirs_exist_ok=True)
    vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    listed = [tuple(merge.split()) for merge in merges if merge and not merge.startswith("#")]
    ranks = {pair: rank for rank, pair in enumerate(listed)}
    before, new = len(vocab), []
    for word in words:
        if word + WORD_END in vocab or not _PLAIN.fullmatch(word):
            continue
        # spelled with the merges so far: each new merge ranks last, so it changes no word that is one token already
        while len(pieces := _spell(word, ranks)) > 1:
            first, second = pieces[:2]
            merges.append(f"{first} {second}")
            ranks[first, second] = len(ranks)
            vocab.setdefault(first + second, len(vocab))
        new.append(word)
    (target / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (target / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
    (target / "tokenizer.json").unlink(missing_ok=True)  # a copy of the old vocabulary, which would win
    _grow_embedding(encoder, len(vocab) - before, seed)
    return new


def _spell(word: str, ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """The pieces of a word, as byte-pair encoding joins them."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    while len(pieces) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(pieces)]
        at = pairs.index(min(pairs))
        if pairs[at] == len(ranks):
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _grow_embedding(encoder: CLIPTextModel, rows: int, seed: int) -> None:
    """Add random rows to a text encoder's token embedding."""
    embedding: Any = encoder.get_input_embeddings()
    old: Tensor = embedding.weight.data
    drawn = torch.randn(rows, old.shape[1], generator=torch.Generator().manual_seed(seed)) * old.float().std()
    grown = nn.Embedding(len(old) + rows, old.shape[1])
    grown.weight.data = torch.cat([old, drawn.to(old.dtype)])
    encoder.set_input_embeddings(grown)
    encoder.config.vocab_size = len(old) + rows
