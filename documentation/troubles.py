"""The table of all errors with a hint, made from the places in the code that raise them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import segrefine
from segrefine import errors

_ROOT = Path(segrefine.__file__).parent
_GAP = "…"
_PROBLEM_FIELDS = ("status", "code", "expected", "got", "hint")
_LEAST_LETTERS = 8
"""A symptom with fewer letters says nothing by itself."""


@dataclass(frozen=True, order=True)
class Trouble:
    """An error: its class, how its text reads with … for what varies, and its hint."""

    kind: str
    symptom: str
    hint: str


def trouble_tables() -> str:
    """Markdown with a table of symptoms and hints for each kind of error."""
    kinds: dict[str, list[Trouble]] = defaultdict(list)
    for each in sorted(set(find_troubles())):
        kinds[each.kind].append(each)
    sections = [
        f"### {kind}\n\n{_about(kind)}\n\n| message | what to do |\n|:--|:--|\n"
        + "\n".join(f"| {_cell(each.symptom)} | {_cell(each.hint)} |" for each in troubles)
        for kind, troubles in kinds.items()
    ]
    return "\n\n".join(sections) + "\n"


def find_troubles() -> Iterator[Trouble]:
    """Every error of the package that is raised with a hint whose text stands in the code."""
    for path in sorted(set(_ROOT.rglob("*.py")) - {_ROOT / "serve/describe.py"}):  # that one has examples
        tree = ast.parse(path.read_text())
        constants = _texts_by_name(tree.body)
        for scope, names in _scopes(tree, constants):
            for node in scope:
                if isinstance(node, ast.Call) and (kind := _kind(node.func)):
                    yield from _troubles(kind, node, names)


def _scopes(tree: ast.Module, constants: dict[str, list[str]]) -> Iterator[tuple[list[ast.AST], dict[str, list[str]]]]:
    """The nodes of each outermost function with the texts of its names; then the nodes outside of all functions."""
    functions = [node for node in _outside_functions(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        nodes = list(ast.walk(function))
        yield nodes, constants | _texts_by_name(nodes)
    yield list(_outside_functions(tree)), constants


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes and its functions, but nothing in these."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _outside_functions(child)


def _kind(function: ast.expr) -> str | None:
    """The class of error that an expression calls, or None."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    known = getattr(errors, name, None)
    return name if name == "Problem" or (isinstance(known, type) and issubclass(known, errors.SegrefineError)) else None


def _troubles(kind: str, call: ast.Call, names: dict[str, list[str]]) -> Iterator[Trouble]:
    parts: dict[str, ast.expr] = {each.arg: each.value for each in call.keywords if each.arg}
    positional = _PROBLEM_FIELDS if kind == "Problem" else ("message",)
    parts |= dict(zip(positional, call.args, strict=False))
    if "hint" not in parts:
        return
    symptoms = [each for each in _symptoms(parts, names) if sum(map(str.isalpha, each)) >= _LEAST_LETTERS]
    hints = [each for each in _texts(parts["hint"], names) if any(map(str.isalpha, each))]
    if len(symptoms) == len(hints):
        pairs = list(zip(symptoms, hints, strict=True))
    elif 1 in (len(symptoms), len(hints)):
        pairs = [(symptom, hint) for symptom in symptoms for hint in hints]
    else:
        pairs = []  # which hint belongs to which is not to be seen
    yield from (Trouble(kind, symptom, hint) for symptom, hint in pairs)


def _symptoms(parts: dict[str, ast.expr], names: dict[str, list[str]]) -> list[str]:
    """How the text of an error may read."""
    messages = _texts(parts["message"], names) if "message" in parts else [""]
    contrast = []
    for word in ("expected", "got"):
        found = _texts(parts[word], names) if word in parts else []
        contrast += [f"{word} {found[0]}"] if len(found) == 1 and found[0] != _GAP else []
    return [": ".join(part for part in (message, ", ".join(contrast)) if part) for message in messages or [""]]


def _texts_by_name(nodes: Iterable[ast.AST]) -> dict[str, list[str]]:
    """The texts of the names that some nodes assign."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).extend(_texts(node.value, {}))
    return found


def _texts(value: ast.expr, names: dict[str, list[str]]) -> list[str]:
    """The texts that an expression may give, with … for what varies."""
    match value:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr(values=pieces):
            return ["".join((_texts(each, {}) or [_GAP])[0] for each in pieces)]
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body, names) + _texts(orelse, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [a + b for a in _texts(left, names) or [_GAP] for b in _texts(right, names) or [_GAP]]
        case ast.Name(id=name):
            return names.get(name, [])
        case ast.FormattedValue():
            return [_GAP]
    return []


def _about(kind: str) -> str:
    """The first line of an error's docstring."""
    if kind == "Problem":
        return "An answer of the HTTP service."
    return (getattr(errors, kind).__doc__ or "").partition("\n")[0]


def _cell(text: str) -> str:
    escaped = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")
    return escaped.replace("[", r"\[")
