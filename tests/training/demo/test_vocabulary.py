"""Pruning CLIP's vocabulary, on a merge list small enough to check by eye."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from segrefine.errors import ExportError
from training.demo.vocabulary import byte_alphabet, prune_clip_vocabulary, write_tokenizer

MERGES = ["o x</w>", "f o", "o f</w>", "f ox</w>", "c a", "ca r</w>", "ca t</w>", "a r</w>", "s h"]


@pytest.fixture
def bpe_file(tmp_path: Path) -> Path:
    file = tmp_path / "bpe.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES, ""]).encode()))
    return file


def test_only_the_merges_of_the_words_are_kept_in_their_order(bpe_file: Path) -> None:
    vocab, merges = prune_clip_vocabulary(bpe_file, ["car", "fox", "a", "fox"])
    assert merges == ["o x</w>", "f ox</w>", "c a", "ca r</w>"]
    tokens = list(vocab)
    assert list(vocab.values()) == list(range(512 + 4 + 2))
    assert tokens[:256] == byte_alphabet()
    assert tokens[512:] == ["ox</w>", "fox</w>", "ca", "car</w>", "<|startoftext|>", "<|endoftext|>"]


def test_a_word_without_a_chain_of_merges_is_named(bpe_file: Path) -> None:
    with pytest.raises(ExportError, match='no single token for "carts"') as caught:
        prune_clip_vocabulary(bpe_file, ["car", "carts"])
    assert caught.value.hint


def test_transformers_loads_what_is_written(bpe_file: Path, tmp_path: Path) -> None:
    vocab, merges = prune_clip_vocabulary(bpe_file, ["car", "fox", "a"])
    write_tokenizer(tmp_path / "tokenizer", vocab, merges)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    ids = tokenizer("A fox, a car", padding="max_length", truncation=True).input_ids
    words = [vocab[f"{word}</w>"] for word in ("a", "fox", ",", "a", "car")]
    assert ids == [start, *words, *[end] * (77 - 6)]
    assert len(tokenizer) == len(vocab)


def test_every_byte_can_be_written(bpe_file: Path, tmp_path: Path) -> None:
    vocab, merges = prune_clip_vocabulary(bpe_file, ["fox"])
    write_tokenizer(tmp_path / "tokenizer", vocab, merges)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer.decode(tokenizer("zürich 🦊 fox").input_ids, skip_special_tokens=True) == "zürich 🦊 fox"
    assert json.loads((tmp_path / "tokenizer" / "vocab.json").read_text()) == vocab
