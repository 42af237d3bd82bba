"""Targets of `segrefine segment`: phrases, those of a caption, or all classes of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from segrefine.runtime.segmentation import Segmentation
    from segrefine.runtime.words.narrative import Span


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Targets of a search.

    Attributes:
        spans: the phrases, each with its place in the caption, or in itself.
        numbers: what each is called in the label map.
        caption: without its brackets; None where there is none.
        nothing: what pixels of no phrase are called.
        closed: whether it is all classes of a list, so that those that are not found need no word.
    """

    spans: Sequence[Span]
    numbers: Sequence[int]
    caption: str | None = None
    nothing: int = 0
    closed: bool = False

    @property
    def texts(self) -> list[str]:
        """The phrases; those of a caption know it."""
        from segrefine.runtime.words.context import link_spans

        if self.caption is None:
            return [span.text for span in self.spans]
        return [*link_spans(self.caption, self.spans)]

    def drop_absent(self, result: Segmentation) -> tuple[Asked, Segmentation]:
        """The same without the classes that were not found."""
        if not self.closed:
            return self, result
        found = [place for place, segment in enumerate(result.segments) if segment.mask.any()]
        asked = replace(self, spans=[self.spans[i] for i in found], numbers=[self.numbers[i] for i in found])
        return asked, replace(result, segments=tuple(result.segments[i] for i in found))


def find_spans(phrases: Sequence[str], caption: str | None, classes: str | None) -> Asked:
    """Return the targets: phrases, those of a caption, or the classes of a list.

    Raises:
        click.UsageError: not exactly one of the three is given.
        MaskError: there is no such class list, or its classes cannot be looked for.
    """
    from segrefine.datasets.class_lists import find_classes
    from segrefine.runtime.words.narrative import Span, split_caption

    if sum((bool(phrases), caption is not None, classes is not None)) != 1:
        raise click.UsageError('give phrases, such as "the fox" "the red car", or --caption, or --classes')
    if caption is not None:
        plain, named = split_caption(caption)
        return Asked(spans=named, numbers=range(1, len(named) + 1), caption=plain)
    if classes is None:
        spans = [Span(text=phrase, start=0, end=len(phrase)) for phrase in phrases]
        return Asked(spans=spans, numbers=range(1, len(spans) + 1))
    known = find_classes(classes)
    known.check_findable()
    texts = {index: known.prompt_of(name) for index, name in known.names.items()}
    return Asked(
        spans=[Span(text=text, start=0, end=len(text)) for text in texts.values()],
        numbers=list(texts),
        nothing=known.nothing,
        closed=True,
    )
