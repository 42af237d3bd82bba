"""The phrases of a caption, with their places in it: what Panoptic Narrative Grounding asks masks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from segrefine.errors import PromptError

_DETERMINERS = """
    a an the this that these those all both some any each every many several few no one two three four five six seven
    eight nine ten my your his her its our their another other
"""
_BOUNDARIES = """
    of and or but in on at to with without by near next beside besides behind before after over under above below
    between among around along across against beneath underneath inside outside into onto off from for as than through
    toward towards while where which who whose there here then
    is are was were be been being am has have had do does did can could will would may might must not
    it he she they we i you him them us itself himself herself
    sits sit sat stands stand stood lies lie lay laid hangs hang hung holds hold held wears wear wore looks look
    looked runs run ran walks walk walked eats eat ate rides ride rode plays play flies fly flew leans lean
    covers cover covered contains contain filled parked seated placed shown seen
    very also just only together
"""
DETERMINERS, BOUNDARIES = frozenset(_DETERMINERS.split()), frozenset(_BOUNDARIES.split())
ARTICLES = frozenset(["a", "an", "the", "my", "your", "his", "its", "our", "their"])
_ADJECTIVES = """
    red orange yellow green blue purple pink brown black white grey gray dark light bright colorful colourful
    big large huge small little tiny tall short long high low old young new
"""
ADJECTIVES = frozenset(_ADJECTIVES.split())
_ING_NOUNS = """
    building ring king wing string spring swing railing ceiling painting clothing awning lightning wedding being thing
    something anything everything nothing evening morning sibling duckling pudding dumpling earring stocking icing
    frosting topping covering lining siding flooring paneling drawing sling viking
"""
ING_NOUNS = frozenset([*_ING_NOUNS.split(), *(word + "s" for word in _ING_NOUNS.split())])
PLACES = frozenset(["left", "right", "front", "top", "bottom", "side", "middle"])
_MARKS = "\u0300-\u036f"  # accents that stand apart from their letters
_ABBREVIATION = r"(?:[A-Za-z]\.){2,}"
_WORD = re.compile(  # "foxes' tails", not "fox'"
    rf"{_ABBREVIATION}|\w(?:[\w{_MARKS}-]|['’](?=\w))*(?:(?<=s)['’](?=\s+\w))?|[^\w\s]"
)
_SHORT_FORM = re.compile(r"(it|he|she|that|there|here|what|who)['’]s|\w+n['’]t|(i|you|we|they)['’](m|re|ve|ll|d)")
_HINT = 'mark the phrases yourself: "[a fox] sits left of [a red car]"'


@dataclass(frozen=True, kw_only=True)
class Span:
    """A phrase of a caption.

    Attributes:
        text: the phrase.
        start: place of its first character in the caption.
        end: place after its last character.
    """

    text: str
    start: int
    end: int


def split_caption(caption: str) -> tuple[str, tuple[Span, ...]]:
    """A caption without its brackets, and its phrases.

    Where the caption marks phrases with square brackets, those are the phrases. Else it is split by rules: a
    phrase is a run of words; it ends before punctuation, before a preposition, conjunction, pronoun, or common verb
    (`BOUNDARIES`) or the short form of one ("it's", "don't"), but not right after an article (`ARTICLES`: "a can"),
    before a determiner (`DETERMINERS`), before a word in -ing that follows another word than a determiner or a common
    adjective (`ADJECTIVES`) and is no common noun (`ING_NOUNS`), and before a word such as "left" (`PLACES`), unless
    that describes the next word, as in "the left fox"; quotation marks around a phrase and runs of determiners alone
    are dropped. English only: for anything else, mark the phrases.

    Raises:
        PromptError: there is no phrase in it, or a bracket without its partner.
    """
    plain, spans = _read_brackets(caption) if set("[]") & set(caption) else (caption, _split(caption))
    if not spans:
        raise PromptError(f"there is no phrase in the caption {caption!r}", hint=_HINT)
    return plain, tuple(spans)


def label_of(phrase: str) -> str:
    """Return the object's name in a phrase, for a prompt such as "a photo of a fox": "the fox by the tree" → "fox".

    Leaves out determiners at the beginning, with an "of" after them ("all of the apples" → "apples"), and all from the
    first word on that tells where the object is or what it does; "the fox and the car" → "fox and the car". A phrase of
    such words alone stays as it is.
    """
    words = phrase.split()
    while words and words[0].casefold() in DETERMINERS:
        words = words[2:] if len(words) > 2 and words[1].casefold() == "of" else words[1:]
    stops = (i for i, word in enumerate(words) if i and word.casefold() in (BOUNDARIES | PLACES) - {"and", "or"})
    return " ".join(words[: next(stops, len(words))]) or phrase


def _split(caption: str) -> list[Span]:
    spans: list[Span] = []
    run: list[re.Match[str]] = []
    found = list(_WORD.finditer(caption))
    words = [match.group().casefold() for match in found] + ["."]
    for index, word in enumerate(words):
        ends = _ends_phrase(words, index, started=bool(run))
        named = any(each.group().casefold() not in DETERMINERS for each in run)
        if (ends or word in DETERMINERS) and named:
            spans.append(_span(caption, run[0].start(), run[-1].end()))
            run = []
        if ends:
            run = []
        else:
            run.append(found[index])
    return spans


def _ends_phrase(words: Sequence[str], index: int, *, started: bool) -> bool:
    """Return whether a phrase ends before a word that belongs to none; determiners, which start one, aside."""
    word, before = words[index], words[index - 1] if started else "."
    if word in BOUNDARIES:
        return before not in ARTICLES
    if _SHORT_FORM.fullmatch(word) or not re.match(r"\w", word):
        return True
    if word in PLACES:
        describes = before in DETERMINERS and words[index + 1] not in BOUNDARIES | PLACES and words[index + 1].isalpha()
        return not describes
    return word.endswith("ing") and word not in ING_NOUNS and started and before not in DETERMINERS | ADJECTIVES


def _read_brackets(caption: str) -> tuple[str, list[Span]]:
    parts = re.split(r"([\[\]])", caption)
    plain, spans, opened = "", [], None
    for part in parts:
        if part not in ("[", "]"):
            plain += part
        elif (part == "[") == (opened is not None):
            raise PromptError(f"a bracket has no partner in the caption {caption!r}", hint=_HINT)
        elif part == "[":
            opened = len(plain)
        else:
            assert opened is not None
            start, opened = opened, None
            if plain[start:].strip():
                spans.append((start, len(plain)))
    if opened is not None:
        raise PromptError(f"a bracket has no partner in the caption {caption!r}", hint=_HINT)
    return plain, [_span(plain, start, end) for start, end in spans]


def _span(caption: str, start: int, end: int) -> Span:
    """The span, less white space at its ends."""
    text = caption[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Span(text=text, start=start, end=start + len(text))
