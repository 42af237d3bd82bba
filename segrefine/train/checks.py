"""Checks of the data before the first step: texts that fit the model, and classes that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from segrefine.errors import MaskError, PromptError
from segrefine.train.batches import TextEncoder
from segrefine.train.prepared import Mixture, Prepared, describe_problems
from segrefine.train.scenes import TrainingScene
from segrefine.train.templates import plural

_SHOWN = 3
"""Long phrases that a warning names."""


def check_data(mixture: Mixture, texts: TextEncoder, warn: Callable[[str], None]) -> Mixture:
    """The data that can be trained on: without scenes that only phrases describe which are too long.

    Args:
        mixture: the data.
        texts: the model's tokenizers.
        warn: takes a line about data that cannot be used.

    Raises:
        PromptError: a class name, or every phrase, has more tokens than the text encoder takes.
        MaskError: no image is left to train on.
    """
    if not any(part.scenes for part in mixture.parts):
        raise MaskError("every image is held out for validation", hint="add images, or use --validation DATA")
    for name in mixture.classes:
        if not texts.fits(text := f"all {plural(name)}"):
            expected = f"at most {texts.most} tokens"
            raise PromptError(
                subject=f"class {name!r}", expected=expected, got=texts.count(text), hint="use a shorter name"
            )
    for part in mixture.parts:
        if line := describe_problems(part):
            warn(line)
    if line := describe_long_phrases(mixture, texts):
        warn(line)
    kept = [replace(part, scenes=[scene for scene in part.scenes if _is_described(scene, texts)])
            for part in mixture.parts]  # fmt: skip
    kept = [part for part in kept if part.scenes]
    if not kept:
        raise PromptError(f"every phrase has more than {texts.most} tokens", hint="use shorter phrases")
    _check_classes(kept, mixture.classes, warn)
    return replace(mixture, parts=kept)


def describe_long_phrases(mixture: Mixture, texts: TextEncoder) -> str | None:
    """A line on the phrases of the data that the text encoder cannot take; None where there is none."""
    phrases = sorted({text for part in mixture.parts for scene in part.scenes for text in scene["phrases"]})
    long = [text for text in phrases if not texts.fits(text)]
    if not long:
        return None
    named = "; ".join(repr(text) for text in long[:_SHOWN])
    return f"{len(long)} of {len(phrases)} phrases have more than {texts.most} tokens and are left out: {named}"


def without_long_phrases(scene: TrainingScene, fits: Callable[[str], bool]) -> TrainingScene:
    """The scene without phrases that do not fit the text encoder."""
    regions = (replace(each, phrases=tuple(text for text in each.phrases if fits(text))) for each in scene.regions)
    return replace(scene, regions=tuple(regions))


def _is_described(scene: dict[str, list[str]], texts: TextEncoder) -> bool:
    """Return whether a class or a phrase that fits names a region of a scene."""
    return bool(scene["labels"]) or any(texts.fits(text) for text in scene["phrases"])


def _check_classes(parts: list[Prepared], classes: list[str], warn: Callable[[str], None]) -> None:
    """Warn of data in which every phrase means the same."""
    has_phrases = any(scene["phrases"] for part in parts for scene in part.scenes)
    if len(classes) == 1 and not has_phrases:
        warn(f"the data has one class, {classes[0]!r}: the model will find it whatever the phrase says; "
             "add data with other classes")  # fmt: skip
