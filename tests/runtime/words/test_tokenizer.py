"""The tokenizer against transformers' CLIPTokenizer, on every kind of text that people and fuzzers type."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

import segrefine
from segrefine.errors import BundleError, MissingDependencyError, PromptError
from segrefine.runtime.words.tokenizer import ClipTokenizer
from tests.examples import examples

CHECKPOINT = Path(segrefine.__file__).parent / "assets" / "demo-checkpoint" / "tokenizer"

TEXTS = [
    "", " ", "\t\n\r", "a photo of a fox", "A PHOTO OF A FOX", "  two   foxes  ", "fox\n\ncar\ttree", "fox,car;tree!",
    "it's they're we've I'm you'll he'd can't", "IT'S THEY'RE", "''s 's", "it’s", "1234567890", "3.14 ½ ² Ⅷ ٣ ৪",
    "a1b2c3", "!!! ??? ...", "--- ___ ***", "#fox @car $5 100% a&b", "<b>fox</b>", "</w>", "fox</w> car</w>", "{label}",
    "\\n \\x00", "<|endoftext|>", "<|startoftext|> fox <|endoftext|> car", "<|ENDOFTEXT|>", "<|endoftext",
    "fox<|endoftext|>car",
    "Zürich naïve café", "Straße ẞ", "İstanbul ı", "ΣΊΣΥΦΟΣ ς", "Ǆ ǅ ǆ", "ﬁ ﬂ ﬀ", "Ａ ｆｕｌｌ ｗｉｄｔｈ",
    "fo\u0301x e\u0301 A\u030a n\u0303", "q\u0307\u0323 q\u0323\u0307", "Z̷a̶l̵g̴o̷", "\u0301fox", "한글 한글", "각",
    "狐狸的照片", "キツネの写真", "여우 사진", "รูปสุนัขจิ้งจอก", "लोमड़ी की तस्वीर", "תמונה של שועל", "صورة ثعلب", "ﷺ",
    "\u202eright to left\u202c", "\u200ffox\u200e", "fox\u200bcar", "fox\u00adcar", "fox\u00a0car", "fox\u3000car",
    "\ufefffox", "🦊", "a 🦊 and a 🚗", "👨‍👩‍👧‍👦", "👍🏽", "🇨🇭", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "𝔣𝔬𝔵 𝟙𝟚𝟛", "𓃥",
    "\x00", "a\x00b", "\x01\x02\x1b[31mfox", "\x1c\x1d\x1e\x1f", "\x7f\x80\x85\x9f", "\u2028fox\u2029", "\ue000",
    "\uffff", "\U0010ffff", " ".join(["fox"] * 200), "fox " * 75, "fox " * 76, ("fox " * 74).strip(),
    "x" * 500, "🦊" * 60, "é" * 80, "1" * 90,
]  # fmt: skip
ALPHABETS = {
    "ASCII": (0x20, 0x7F), "control": (0x00, 0x20), "Latin": (0xA0, 0x250), "combining": (0x300, 0x370),
    "Greek to Hebrew": (0x370, 0x600), "Arabic to Devanagari": (0x600, 0x900), "emoji": (0x1F300, 0x1FAFF),
    "CJK": (0x4E00, 0x9FFF),
}  # fmt: skip
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "fox",
    "car's",
    "apple,",
    "Butterfly's",
    "TURTLE",
    "3",
    "éléphant",
    "🦊",
    "狐",
    "עץ",
]


def generated_texts() -> list[str]:
    """Seeded texts: words in any order, and 1–60 letters of one alphabet or of all, as they are and decomposed."""
    rng = np.random.default_rng(11)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 120))) for _ in range(100)]
    for _ in range(30):
        for low, high in ALPHABETS.values():
            texts.append("".join(map(chr, rng.integers(low, high, rng.integers(1, 60)))))
        mixed = rng.choice(list(ALPHABETS.values()), 40)
        texts.append("".join(chr(rng.integers(low, high)) for low, high in mixed))
    return texts + [unicodedata.normalize("NFD", text) for text in texts[::5]]


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"], ids=["pad as SD 1.5", "pad as SD 2.1"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ClipTokenizer, CLIPTokenizer]:
    """Ours and transformers', of the demo checkpoint, with either token for padding."""
    folder = tmp_path_factory.mktemp("bundle") / "tokenizer"
    theirs = CLIPTokenizer.from_pretrained(CHECKPOINT, pad_token=request.param)
    theirs.save_pretrained(folder)
    return ClipTokenizer.from_folder(folder), theirs


def encode(oracle: CLIPTokenizer, text: str) -> list[int]:
    ids: list[int] = oracle(text, padding="max_length", truncation=True).input_ids
    return ids


def test_equal_to_transformers_on_more_than_500_texts(pair: tuple[ClipTokenizer, CLIPTokenizer]) -> None:
    ours, theirs = pair
    texts = TEXTS + generated_texts()
    assert len(set(texts)) >= 500
    wrong = [text for text in texts if ours(text)[0].tolist() != encode(theirs, text)]
    assert wrong == []


@settings(max_examples=examples(200), deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_equal_to_transformers_on_any_text(pair: tuple[ClipTokenizer, CLIPTokenizer], text: str) -> None:
    ours, theirs = pair
    assert ours(text)[0].tolist() == encode(theirs, text)


def test_shape_and_ends(pair: tuple[ClipTokenizer, CLIPTokenizer]) -> None:
    ours, theirs = pair
    for text in ("", "fox", "fox " * 200):
        ids = ours(text)
        assert (ids.shape, ids.dtype) == ((1, 77), np.int64)
        assert ids[0, 0] == theirs.bos_token_id
    assert (ours("fox")[0, 3:] == theirs.pad_token_id).all()
    assert ours("fox " * 200)[0, -1] == theirs.eos_token_id


def test_tokens_know_their_characters(pair: tuple[ClipTokenizer, CLIPTokenizer]) -> None:
    text = "A  Ünknown\tfox"
    tokens = pair[0].split(text)
    assert [token.added for token in tokens] == [True, *[False] * (len(tokens) - 2), True]
    assert text[tokens[-2].start : tokens[-2].end] == "fox"
    assert {text[token.start] for token in tokens[2:-2]} <= set("Ünknown")


def test_half_a_surrogate_pair_is_refused(pair: tuple[ClipTokenizer, CLIPTokenizer]) -> None:
    with pytest.raises(PromptError, match="not valid Unicode"):
        pair[0]("fox \ud83e")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CLIPTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff"])
def test_bad_files_are_named(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=r"no tokenizer in|tokenizer_config\.json: it cannot be read") as caught:
        ClipTokenizer.from_folder(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_max_length": 10**30}, "model_max_length"),
        ({"model_max_length": None}, "got None"),
        ({"pad_token": "[PAD]"}, "PAD"),
    ],
)
def test_bad_settings_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BundleError, match=message):
        ClipTokenizer.from_folder(folder)


@pytest.mark.parametrize("said", [None, 10**30, 12])
def test_a_length_that_the_files_lack_is_the_bundle_s(folder: Path, said: int | None) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": said}))
    assert ClipTokenizer.from_folder(folder, 9).length == (12 if said == 12 else 9)


def test_pad_token_may_be_written_with_its_properties(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    older = shutil.copytree(folder, tmp_path_factory.mktemp("older") / "tokenizer")
    file = older / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"pad_token": {"content": config["pad_token"], "__type": "AddedToken"}}))
    np.testing.assert_array_equal(ClipTokenizer.from_folder(older)("a fox"), ClipTokenizer.from_folder(folder)("a fox"))


def write_foreign(folder: Path) -> None:
    """Makes the tokenizer one of another kind: it takes words as they are written."""
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    document["normalizer"]["normalizers"].pop()
    file.write_text(json.dumps(document))


def test_another_kind_is_read_by_tokenizers(folder: Path) -> None:
    write_foreign(folder)
    ours, theirs = ClipTokenizer.from_folder(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = ours.split("a Fox")
    assert [token.id for token in tokens] == theirs.encode("a Fox").ids != [token.id for token in ours.split("a fox")]
    assert [token.added for token in tokens] == [True, *[False] * (len(tokens) - 2), True]


def test_another_kind_without_tokenizers_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_foreign(folder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="takes the package tokenizers") as caught:
        ClipTokenizer.from_folder(folder)
    assert caught.value.hint == "pip install tokenizers"


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '"text"', '{"model": []}', '{"normalizer": 3, "model": {"type": "BPE"}}']
)
def test_json_that_is_no_tokenizer_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match="no tokenizer in"):
        ClipTokenizer.from_folder(folder)


@pytest.mark.parametrize("part", ["vocab", "merges"])
def test_a_model_that_lacks_a_part_is_named(folder: Path, part: str) -> None:
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"][part] = {"a": 0} if part == "vocab" else [["no", "such"]]
    file.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="no tokenizer in"):
        ClipTokenizer.from_folder(folder)
