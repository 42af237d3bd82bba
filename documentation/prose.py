"""Prose checks: length of sentences in the documents, and beginnings of docstrings. `make lint` fails above the limits.

`python -m documentation.prose` prints the figures of each document. `--longest 20` adds the longest sentences.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
MEDIAN_LIMIT = 14
NINETIETH_LIMIT = 25
CODE = ("segrefine", "training", "benchmarks")
"""Folders whose docstrings are checked, private ones too."""

NOT_A_BEGINNING = frozenset(
    [
        "As",
        "At",
        "For",
        "From",
        "How",
        "If",
        "In",
        "It",
        "Nothing",
        "Of",
        "On",
        "That",
        "There",
        "These",
        "This",
        "To",
        "What",
        "When",
        "Where",
        "Whether",
        "Which",
        "Who",
        "Why",
        "With",
        "Without",
    ]
)
"""Words that no help text and no docstring starts with: a verb or a noun says sooner what follows."""

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_HTML = re.compile(r"<!--.*?-->|<[a-z/][^>]*>", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`[^`]+`")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_NOT_PROSE = re.compile(r"^(?:\||#|    |\t|---|:::|!!!|\?\?\?|===)")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|cf|et al|approx|Fig|No)\.", re.IGNORECASE)
_END = re.compile(r"(?<=[.!?])[)\"”*]*\s+(?=[\"“(*`]*[A-Z0-9`✂])")
"""The end of a sentence: its full stop, then something that can begin the next one."""


@dataclass(frozen=True)
class Lengths:
    """Words of every sentence of some documents."""

    words: tuple[int, ...]

    @property
    def median(self) -> float:
        """Half of the sentences are no longer."""
        return float(median(self.words)) if self.words else 0.0

    @property
    def ninetieth(self) -> int:
        """Nine of ten sentences are no longer."""
        return sorted(self.words)[int(0.9 * (len(self.words) - 1))] if self.words else 0

    def __str__(self) -> str:
        figures = f"median {self.median:4.1f}, ninetieth percentile {self.ninetieth:3} words"
        return f"{len(self.words):5} sentences, {figures}"


def documents() -> list[Path]:
    """README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def sentences(markdown: str) -> list[str]:
    """The sentences of a document, without its headings, tables, code and pictures."""
    return [sentence for paragraph in _paragraphs(markdown) for sentence in _END.split(paragraph) if _words(sentence)]


def _paragraphs(markdown: str) -> Iterator[str]:
    """Paragraphs and list items, each as one line."""
    text = _HTML.sub("", _IMAGE.sub("", _FENCE.sub("\n", markdown)))
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        inside_item = bool(lines) and line.startswith(" ") and bool(line.strip())
        starts_anew = not line.strip() or bool(_ITEM.match(line)) or bool(_NOT_PROSE.match(line) and not inside_item)
        if starts_anew and lines:
            yield _plain(" ".join(lines))
            lines = []
        if line.strip() and (inside_item or not _NOT_PROSE.match(line)):
            lines.append(_ITEM.sub("", line).strip())


def _plain(paragraph: str) -> str:
    """The text of a paragraph as a reader sees it, with one mark for each piece of code."""
    without_code = _CODE.sub("✂x", paragraph)
    return _ABBREVIATION.sub(r"\1", _LINK.sub(r"\1", without_code)).replace("**", "").strip()


def _words(sentence: str) -> int:
    return sum(any(each.isalnum() for each in word) for word in sentence.split())


def begins_badly(text: str) -> bool:
    """Return whether a text starts with one of `NOT_A_BEGINNING`."""
    words = text.split(maxsplit=1)
    return bool(words) and words[0].strip(".,:;") in NOT_A_BEGINNING


def bad_docstrings(path: Path) -> list[str]:
    """List the docstrings of a module, its classes and its functions that begin badly, as "line: first line"."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(), str(path))) if isinstance(node, documented)]
    texts = [(node.body[0].lineno, text) for node in nodes if (text := ast.get_docstring(node))]
    return [f"{line}: {text.splitlines()[0]}" for line, text in sorted(texts) if begins_badly(text)]


def modules() -> list[Path]:
    """List the modules whose docstrings are checked."""
    return [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]


def measure(paths: list[Path]) -> dict[Path, Lengths]:
    """The lengths of the sentences of each document."""
    return {path: Lengths(tuple(_words(each) for each in sentences(path.read_text()))) for path in paths}


def main(arguments: list[str] | None = None) -> int:
    """Print the figures and the docstrings that begin badly. Return 1 if there are any, or figures above the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=0, help="Print this many of the longest sentences.")
    parser.add_argument("--quiet", action="store_true", help="Print the figures of all documents together only.")
    parser.add_argument("paths", nargs="*", type=Path, help="Documents. [default: README.md and docs/]")
    given = parser.parse_args(arguments)
    found = measure(given.paths or documents())
    everything = Lengths(tuple(words for lengths in found.values() for words in lengths.words))
    if not given.quiet:
        for path, lengths in found.items():
            print(f"{lengths}  {path.name}")
    print(f"{everything}  in all; limits {MEDIAN_LIMIT} and {NINETIETH_LIMIT}")
    every = [(_words(each), path.name, each) for path in found for each in sentences(path.read_text())]
    for count, name, sentence in sorted(every, reverse=True)[: given.longest]:
        print(f"{count:4}  {name}: {sentence}")
    bad = (
        []
        if given.paths
        else [f"{path.relative_to(ROOT)}:{each}" for path in modules() for each in bad_docstrings(path)]
    )
    for each in bad:
        print(f"{each}\n    start the docstring with a verb (Return, Check, Draw) or a noun")
    return int(everything.median > MEDIAN_LIMIT or everything.ninetieth > NINETIETH_LIMIT or bool(bad))


if __name__ == "__main__":
    sys.exit(main())
