"""The error tree: what is caught by whom, that its parts survive, and that nobody reads them out of a text."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import segrefine
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
PARTS = ("message", "subject", "expected", "got", "hint")
TEXTS = st.none() | st.text(min_size=1, max_size=9)
READERS = {"partition", "rpartition", "split", "rsplit", "splitlines", "removeprefix", "removesuffix", "replace",
           "startswith", "endswith", "find", "rfind", "index", "count"}  # fmt: skip
"""Methods that read something out of a text. Without arguments, split() only makes it one line."""


@pytest.mark.parametrize(("kind", "builtin"), TREE.items(), ids=lambda kind: kind.__name__)
def test_error_is_ours_and_the_builtin_and_keeps_its_hint(kind: type[errors.SegrefineError], builtin: type) -> None:
    error = pickle.loads(pickle.dumps(kind("what came", hint="what to do")))
    assert isinstance(error, errors.SegrefineError) and isinstance(error, builtin)
    assert (str(error), error.hint) == ("what came", "what to do")
    assert kind("alone").hint is None


@given(st.sampled_from(list(TREE)), st.text(max_size=9), TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
def test_parts_survive_and_make_up_the_text(
    kind: type[errors.SegrefineError], message: str, subject: str | None, expected: str | None, got: str | None,
    hint: str | None, further: str | None,
) -> None:  # fmt: skip
    error = kind(message, subject=subject, expected=expected, got=got, hint=hint)
    for same in (error, pickle.loads(pickle.dumps(error)), error.about(None)):
        assert type(same) is kind and str(same) == str(error)
        assert [getattr(same, part) for part in PARTS] == [message, subject, expected, got, hint]
    assert all(part in str(error) for part in (message, subject, expected, got) if part)
    named = error.about(further)
    assert type(named) is kind and (named.expected, named.got, named.hint) == (expected, got, hint)
    assert str(named) == (f"{further}: {error}" if further and str(error) else str(named))
    assert error.subject == subject  # the first is left as it was


def test_texts() -> None:
    error = errors.MaskError("too large", subject="a.png", expected="3×4 pixels", got="5×6")
    assert str(error) == "a.png: too large: expected 3×4 pixels, got 5×6" and error.complaint in str(error)
    assert str(errors.SettingsError(expected="a, b", got=3)) == "expected a, b; got 3"
    assert str(errors.SettingsError(expected="a, b")) == "expected a, b"
    assert str(error.about("fox")) == "fox: a.png: too large: expected 3×4 pixels, got 5×6"


def test_docstring_draws_every_error() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {kind.__name__ for kind in TREE} | {"SegrefineError", "EngineWarning"} == classes
    assert errors.__doc__ is not None and all(name in errors.__doc__ for name in classes)


def test_no_module_parses_the_text_of_an_error() -> None:
    root = Path(segrefine.__file__).parent
    found = [f"{file.relative_to(root)}:{line}" for file in sorted(root.rglob("*.py")) for line in parsings(file)]
    assert not found, "read subject, expected, got and hint instead"


@pytest.mark.parametrize(
    "reading",
    ["str(error).partition(': ')", "'x' in str(error)", "re.search('x', str(error))", "error.args[0].split(': ')",
     "f'{error}'.removeprefix('x')", "str(error) == 'x'", "PATTERN.match(str(error))"],
)  # fmt: skip
def test_parsing_is_found(reading: str, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(f"try:\n    pass\nexcept MaskError as error:\n    x = {reading}\n")
    assert list(parsings(file)) == [4]
    file.write_text(f"def of(error: SegrefineError):\n    return {reading}\n")
    assert list(parsings(file)) == [2]
    file.write_text(f"try:\n    pass\nexcept OSError as error:\n    x = {reading}\n")  # others' errors have no parts
    assert not list(parsings(file))


def parsings(file: Path) -> Iterator[int]:
    """Lines in which a module reads parts out of the text of an error of ours."""
    ours = {kind.__name__ for kind in TREE} | {"SegrefineError", "Exception", "BaseException", "UnusableMask"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ExceptHandler) and node.name and node.type and names_in(node.type) & ours:
            yield from lines_that_parse(node.body, node.name)
        elif isinstance(node, ast.FunctionDef):
            for argument in node.args.args:
                if argument.annotation and names_in(argument.annotation) & (ours - {"Exception", "BaseException"}):
                    yield from lines_that_parse(node.body, argument.arg)


def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def lines_that_parse(body: list[ast.stmt], name: str) -> Iterator[int]:
    for node in (each for statement in body for each in ast.walk(statement)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            read = is_text_of(node.func.value, name) and node.func.attr in READERS and node.args
            matched = node.func.attr in ("search", "match", "fullmatch", "sub", "findall", "finditer")
            if read or (matched and any(is_text_of(argument, name) for argument in node.args)):
                yield node.lineno
        elif isinstance(node, ast.Compare) and any(is_text_of(each, name) for each in (node.left, *node.comparators)):
            yield node.lineno


def is_text_of(node: ast.expr, name: str) -> bool:
    """Whether an expression is the text of the error called `name`: str(error), f"{error}" or error.args[0]."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
        return any(isinstance(argument, ast.Name) and argument.id == name for argument in node.args)
    if isinstance(node, ast.JoinedStr):
        return any(
            isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id == name
            for part in node.values
        )
    return isinstance(node, ast.Subscript) and ast.unparse(node.value) == f"{name}.args"
