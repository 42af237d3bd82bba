"""The error tree: what is caught by whom, and that hints survive."""

from __future__ import annotations

import pickle

import pytest

from segrefine import errors

TREE = {
    errors.BundleError: ValueError,
    errors.IntegrityError: errors.BundleError,
    errors.ExportError: RuntimeError,
    errors.BackendError: ValueError,
    errors.EngineError: RuntimeError,
    errors.StaleEngineError: errors.EngineError,
    errors.ShapeError: ValueError,
    errors.NumericalError: ArithmeticError,
    errors.ParityError: AssertionError,
    errors.ImageError: ValueError,
    errors.MaskError: ValueError,
    errors.PromptError: ValueError,
    errors.SettingsError: ValueError,
    errors.OutputError: OSError,
    errors.ServiceError: RuntimeError,
    errors.MissingDependencyError: ImportError,
}


@pytest.mark.parametrize(("kind", "builtin"), TREE.items(), ids=lambda kind: kind.__name__)
def test_error_is_ours_and_the_builtin_and_keeps_its_hint(kind: type[errors.SegrefineError], builtin: type) -> None:
    error = pickle.loads(pickle.dumps(kind("what came", hint="what to do")))
    assert isinstance(error, errors.SegrefineError) and isinstance(error, builtin)
    assert (str(error), error.hint) == ("what came", "what to do")
    assert kind("alone").hint is None


def test_docstring_draws_every_error() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {kind.__name__ for kind in TREE} | {"SegrefineError", "EngineWarning"} == classes
    assert errors.__doc__ is not None and all(name in errors.__doc__ for name in classes)
