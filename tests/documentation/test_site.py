"""The site: generated pages say what the code says, and links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from documentation.commands import command_page, every_command
from documentation.hooks import ALL_ERRORS
from documentation.links import SOURCE, outside_pages, place_of, rewrite_links, source_of
from documentation.prose import ROOT
from documentation.troubles import Trouble, find_troubles, trouble_tables
from segrefine.cli import main as program
from segrefine.engines import find_backend
from segrefine.errors import BackendError


def test_every_command_and_option_is_on_the_page():
    page = command_page()
    names = [name for name, _ in every_command(program)]
    assert {"refine", "segment", "batch", "serve"} <= set(names)
    for name, command in every_command(program):
        assert f"## {name}\n" in page
        for each in command.params:
            if isinstance(each, click.Option) and not each.hidden:
                assert each.opts[-1] in page, (name, each.opts)
    assert "{backends}" not in page and "onnxruntime" in page


def test_an_error_reads_as_its_row_says():
    with pytest.raises(BackendError) as caught:
        find_backend("tensorfow")
    rows = [each for each in find_troubles() if each.kind == "BackendError" and each.symptom == "there is no backend …"]
    assert rows and "there is no backend" in str(caught.value)
    assert any(re.match(row.hint.replace("…", ".*"), caught.value.hint or "") for row in rows)


def test_a_hint_stands_with_its_own_error():
    hints = {each.hint for each in find_troubles() if each.symptom == "expected fields among …"}
    assert hints == {"write …", "leave it out, or see /docs"}


def test_the_table_of_errors_is_whole():
    tables = trouble_tables()
    assert tables.count("\n### ") > 10 and tables.count("\n| ") > 300
    assert all(line.count(" | ") == 1 for line in tables.splitlines() if line.startswith("| ") and "\\|" not in line)
    assert ALL_ERRORS in (ROOT / "docs/troubleshooting.md").read_text()
    assert Trouble("MaskError", "", "") not in set(find_troubles())


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("index.md", "docs/refine.md#the-guard", "refine.md#the-guard"),
        ("index.md", "benchmarks/results/peers.png", "results/peers.png"),
        ("index.md", "segrefine/runtime/pipeline.py", SOURCE + "segrefine/runtime/pipeline.py"),
        ("research/gs.md", "../../benchmarks/results/peers.md", "../results/peers.md"),
        ("method.md", "../README.md", "index.md"),
        ("results/peers.md", "peers.png", "peers.png"),
        ("gs.md", "https://arxiv.org/abs/2508.20020", "https://arxiv.org/abs/2508.20020"),
        ("gs.md", "#the-steps", "#the-steps"),
    ],
)
def test_links_are_made_to_fit_the_site(place, link, expected):
    assert rewrite_links(f"[x]({link})", place) == f"[x]({expected})"


def test_pages_outside_of_docs_have_one_place():
    for place, path in outside_pages().items():
        assert path.is_file()
        assert place_of(source_of(place)) == place


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install .[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=500)
    assert "Refiner" in (tmp_path / "site/reference/api.html").read_text()
