"""Errors as answers: problem documents (RFC 9457) with a code, what was expected, what came, and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from segrefine.errors import ImageError, MaskError, NumericalError, PromptError, SegrefineError, SettingsError

MEDIA_TYPE = "application/problem+json"
_INPUT_ERRORS: Mapping[type[SegrefineError], tuple[str, str]] = {
    ImageError: ("bad_image", "a readable image"),
    MaskError: ("bad_mask", "a mask that fits the image and has foreground and background"),
    PromptError: ("bad_prompt", "words that the model can read"),
    SettingsError: ("bad_setting", "settings within their ranges"),
}
_LONGEST = 500


@dataclass(eq=False)
class Problem(Exception):
    """An error with its answer.

    Attributes:
        status: HTTP's code.
        code: ours, for programs.
        expected: what the service takes.
        got: what came.
        hint: what to do.
        subject: what it is about, such as "mask 2"; None where that is plain.
        headers: of the answer, besides the usual ones.
    """

    status: int
    code: str
    expected: str
    got: str
    hint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    subject: str | None = None

    def __str__(self) -> str:
        """Return the expected and the given value, as one sentence."""
        return f"expected {self.expected}, got {self.got}"

    def to_dict(self, request_id: str) -> dict[str, Any]:
        """The document; texts that quote what was sent are cut to a length."""
        return {
            "type": f"urn:segrefine:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": _cut(str(self)),
            "subject": self.subject,
            "expected": _cut(self.expected),
            "got": _cut(self.got),
            "hint": _cut(self.hint),
            "instance": f"urn:segrefine:request:{request_id}",
            "request_id": request_id,
        }

    def to_json(self, request_id: str, more: Mapping[str, Any] | None = None) -> bytes:
        """The document's bytes, with further members."""
        values = {**self.to_dict(request_id), **(more or {})}
        return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")


STOPPED = Problem(503, "stopped", "a service that stays", "one that was stopped", "try again", {"Retry-After": "1"})
"""For a request that was accepted, where the service has no time left to answer it."""


def problem_of(error: BaseException) -> Problem:
    """The problem that an error from the library, or an unforeseen one, is answered with."""
    if isinstance(error, Problem):
        return error
    for kind, (code, expected) in _INPUT_ERRORS.items():
        if isinstance(error, kind):
            return _from_library(error, 422, code, expected)
    if isinstance(error, NumericalError):
        return _from_library(error, 500, "not_finite", "finite values from the model")
    if isinstance(error, MemoryError):
        hint = "send a smaller image, or start the service with fewer --workers"
        return Problem(503, "out_of_memory", "room in memory for the work", "none left", hint, {"Retry-After": "5"})
    hint = "the service's log has the cause under this request_id; report it with the request that shows it"
    return Problem(500, "internal_error", "an answer", "an unexpected failure", hint)


def _from_library(error: SegrefineError, status: int, code: str, expected: str) -> Problem:
    """The problem of an error: what it expected if it says so, else what its kind expects."""
    if error.expected is None or error.got is None:
        got, hint = str(error), error.hint or "see /docs for what a request takes"
    else:
        lead = ": ".join(part for part in (error.subject, error.message) if part)
        expected = f"{error.expected} ({lead})" if lead else error.expected
        got, hint = error.got, error.hint or "change it"
    return Problem(status, code, _one_line(expected), _one_line(got), hint, subject=error.subject)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"
