"""Errors of segrefine, as one tree. Every error also inherits the builtin that a caller would reach for.

    SegrefineError
    ├── BundleError (ValueError)               a bundle that cannot be read, or a component that it lacks
    │   └── IntegrityError                     a file of it is missing, cut short, altered, a link, or outside it
    ├── ExportError (RuntimeError)             PyTorch → ONNX failed, or gave another graph than it should
    ├── BackendError (ValueError)              unknown backend, or one that cannot serve the device asked for
    ├── EngineError (RuntimeError)             an engine that is damaged, does not load, or fails while it runs
    │   └── StaleEngineError                   an engine that was built for another version, machine or graph
    ├── ShapeError (ValueError)                arrays that do not fit the specification of a graph
    ├── NumericalError (ArithmeticError)       a result that is not finite; names the component and the step
    ├── ParityError (AssertionError)           an engine and its reference disagree past tolerance
    ├── ImageError (ValueError)                an image that cannot be read or used
    ├── MaskError (ValueError)                 a mask that cannot be used, or does not fit its image
    ├── PromptError (ValueError)               a label that is empty or too long
    ├── SettingsError (ValueError)             an option outside its range
    ├── OutputError (OSError)                  a place that cannot be written to
    ├── ServiceError (RuntimeError)            a service that cannot be reached, or answered with a problem
    └── MissingDependencyError (ImportError)   a package of an extra that is not installed

`EngineWarning` (UserWarning) names an engine that is left out, damaged or stale. Another one or the graph is used.

A message says what was expected and what came; `hint` says what to do about it. Both are attributes, so that nobody
has to read the message: `subject`, `expected`, `got`, `hint`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class SegrefineError(Exception):
    """The root of every error that segrefine raises on purpose.

    Its text is put together from its parts, "subject: message: expected this, got that", as far as there are any.

    Attributes:
        message: what is wrong, as a sentence; empty where `expected` and `got` say it all.
        subject: what the error is about, as text: a file, a setting, a label. None where that is plain.
        expected: what would have been right, as text.
        got: what came, as text.
        hint: the command to run or the option to change, or None where there is nothing to say.
    """

    def __init__(
        self,
        message: str = "",
        *,
        subject: object = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.subject = None if subject is None else str(subject)
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.subject}: {self.complaint}" if self.subject else self.complaint

    @property
    def complaint(self) -> str:
        """The text of the error without its subject."""
        return ": ".join(part for part in (self.message, self._contrast()) if part)

    def about(self, subject: object | None) -> Self:
        """The same error with a subject, which comes before its own if it has one; None leaves it as it is."""
        if subject is None:
            return self
        named = copy.copy(self)
        named.subject = f"{subject}: {self.subject}" if self.subject else str(subject)
        return named

    def _contrast(self) -> str:
        """Describe the expected and the given value."""
        expected = "" if self.expected is None else f"expected {self.expected}"
        if self.got is None:
            return expected
        mark = ";" if "," in expected else ","
        return f"{expected}{mark} got {self.got}" if expected else f"got {self.got}"


class BundleError(SegrefineError, ValueError):
    """A bundle that cannot be read, or a component that it lacks."""


class IntegrityError(BundleError):
    """A file of a bundle that is missing, cut short, altered, a link, or outside of the bundle."""


class ExportError(SegrefineError, RuntimeError):
    """An export that failed, or that gave another graph than it should."""


class BackendError(SegrefineError, ValueError):
    """A backend that is unknown, or that cannot serve the device asked for."""


class EngineError(SegrefineError, RuntimeError):
    """An engine that is damaged, does not load, or fails while it runs."""


class StaleEngineError(EngineError):
    """An engine that was built for another version, machine or graph."""


class EngineWarning(UserWarning):
    """An engine that is left out, damaged or stale, where another one or the graph is used."""


class ShapeError(SegrefineError, ValueError):
    """Arrays that do not fit the specification of a graph."""


class NumericalError(SegrefineError, ArithmeticError):
    """A result that is not finite; the message names the component and the step."""


class ParityError(SegrefineError, AssertionError):
    """An engine and its reference that disagree past tolerance."""


class ImageError(SegrefineError, ValueError):
    """An image that cannot be read or used."""


class MaskError(SegrefineError, ValueError):
    """A mask that cannot be used, or that does not fit its image."""


class PromptError(SegrefineError, ValueError):
    """A label that is empty or too long."""


class SettingsError(SegrefineError, ValueError):
    """An option outside its range."""


class OutputError(SegrefineError, OSError):
    """A place that cannot be written to."""


class ServiceError(SegrefineError, RuntimeError):
    """A service that cannot be reached, or that answered with a problem.

    Attributes:
        status: HTTP's code; None where no answer came.
        code: the problem's, such as "queue_full".
        request_id: under which the service's log has the request.
    """

    def __init__(
        self,
        message: str = "",
        *,
        subject: object = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, subject=subject, expected=expected, got=got, hint=hint)
        self.status, self.code, self.request_id = status, code, request_id


class MissingDependencyError(SegrefineError, ImportError):
    """A package of an extra that is not installed; the hint names the extra."""
