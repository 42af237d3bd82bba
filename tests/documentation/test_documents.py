"""What README and docs tell a reader to type, import and open is there."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from segrefine.assets import photo_samples
from segrefine.cli import main
from segrefine.cli.samples import load_samples

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OTHER_OPTIONS = {"--model-control-mode", "--segment-bundle"}
"""Of Triton's server, and of the backend for Label Studio."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(document: Path, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(document.read_text()) if found == kind]


def command_lines() -> list[str]:
    lines = [line for each in DOCUMENTS for text in blocks(each, "console") for line in text.splitlines()]
    return sorted({line.removeprefix("$ ") for line in lines if line.startswith("$ segrefine ")})


@pytest.mark.parametrize("line", command_lines())
def test_every_command_that_is_shown_is_one(line):
    _, name, *words = shlex.split(line, comments=True)
    context = click.Context(main.get_command(click.Context(main), name))
    _, left, _ = context.command.make_parser(context).parse_args(words)
    assert not left


def test_every_option_that_is_named_is_one():
    commands = [main.get_command(click.Context(main), name) for name in main.list_commands(click.Context(main))]
    options = {name for command in commands for parameter in command.params for name in parameter.opts}
    options |= {name for command in commands for parameter in command.params for name in parameter.secondary_opts}
    named = {name for each in DOCUMENTS for name in re.findall(r"`(--[a-z0-9-]+)", each.read_text())}
    assert named and named - options - OTHER_OPTIONS == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_everything_that_is_shown_to_be_imported_is_there(document):
    for text in blocks(document, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                missing = [each.name for each in node.names if not hasattr(import_module(node.module), each.name)]
                assert not missing, (node.module, missing)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    inside = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in inside if not (document.parent / link).exists()] == []


def test_dotted_names_in_text_are_there():
    names = {name for each in DOCUMENTS for name in re.findall(r"`(segrefine(?:\.\w+)+)`", each.read_text())}
    names -= {"segrefine.json"}  # a file
    assert names
    for name in sorted(names):
        module, _, attribute = name.rpartition(".")
        try:
            import_module(name)
        except ModuleNotFoundError:
            assert hasattr(import_module(module), attribute), name


def test_the_page_on_python_runs_from_its_top_to_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    samples = load_samples(photo_samples())
    cat, dog = samples["chelsea"], samples["dog"]
    height, width = (min(sizes) // 16 * 16 for sizes in zip(cat.truth.shape, dog.truth.shape, strict=True))

    def side_by_side(left, right):
        return Image.fromarray(np.concatenate([left[:height, :width], right[:height, :width]], 1))

    nothing = np.zeros((height, width), np.uint8)
    side_by_side(cat.image, dog.image).save("photo.png")
    side_by_side(np.uint8(255 * cat.coarse), nothing).save("coarse.png")
    side_by_side(nothing, np.uint8(255 * dog.coarse)).save("dog.png")
    names: dict[str, Any] = {}
    for text in blocks(ROOT / "docs" / "python.md", "python"):
        exec(text, names)
    assert "100% edges" in (told := capsys.readouterr().out) and " | " in told
    assert Path("mask.png").exists()
    assert names["latents"].shape[0] == 1 and names["found"].segments[0].uncertainty.any()
