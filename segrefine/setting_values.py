"""Kinds of values that settings have."""

from __future__ import annotations

import json
import math


def is_like(value: object, default: object) -> bool:
    """Return whether a value has its default's kind: text, bool, whole number, finite number, or a tuple of a kind."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(is_like(each, default[0]) for each in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
        return False
    return not isinstance(value, float) or math.isfinite(value)


def describe_kind(default: object) -> str:
    """A kind of value in words, with an example."""
    match default:
        case bool():
            return "true or false"
        case int():
            return f"a whole number, such as {default}"
        case float():
            return f"a float, such as {default}"
        case tuple():
            kind = "whole numbers" if isinstance(default[0], int) else "floats"
            return f"a list of {kind}, such as {json.dumps(default)}"
        case _:
            return f"a text, such as {default!r}"


def show_value(value: object) -> str:
    """A value as errors quote it; tuples look like the lists of JSON."""
    return repr(list(value) if isinstance(value, tuple) else value)
