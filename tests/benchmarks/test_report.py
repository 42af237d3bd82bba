from __future__ import annotations

import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.report import (
    INDEX,
    RESULTS,
    Estimate,
    describe_results,
    estimate,
    machine,
    markdown_table,
    paired_difference,
    write_result,
)


def test_standard_error_of_independent_values():
    values = np.random.default_rng(0).normal(2, 3, 50)
    result = estimate(values)
    assert (result.mean, result.count) == (pytest.approx(values.mean()), 50)
    assert result.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_repeated_values_of_a_group_add_no_certainty():
    values = np.random.default_rng(0).normal(size=20)
    once, thrice = estimate(values), estimate(np.repeat(values, 3), np.repeat(np.arange(20), 3))
    assert thrice.standard_error == pytest.approx(once.standard_error)
    assert estimate(np.repeat(values, 3)).standard_error < 0.7 * once.standard_error


def test_one_group_has_no_standard_error_and_no_value_no_mean():
    assert math.isnan(estimate([1, 2, 3], ["a", "a", "a"]).standard_error)
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_pairing_cancels_what_both_share():
    scenes = np.random.default_rng(0).normal(size=30)
    difference = paired_difference(scenes + 0.1, scenes)
    assert difference.mean == pytest.approx(0.1) and difference.standard_error == pytest.approx(0, abs=1e-12)


def test_table():
    table = markdown_table(["method", "IoU"], [["ours", 0.81234], ["theirs", Estimate(-0.01, 0.002, 9)]])
    assert table.splitlines() == [
        "| method | IoU |",
        "| :-- | --: |",
        "| ours | 0.812 |",
        "| theirs | -0.0100 ± 0.0020 |",
    ]


def test_machine_names_no_host_and_no_folder(monkeypatch):
    arguments = ["/home/someone/tool.py", "--out=/home/someone/x.json", "/srv/data/scenes", "--ratio", "1/2"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    described: dict[str, Any] = machine()
    assert described["command"] == "python tool.py --out=x.json scenes --ratio 1/2"
    text = json.dumps(described)
    assert "/home" not in text and str(Path.cwd()) not in text and platform.node() not in text
    assert described["cores"] >= 1 and described["memory_gib"] >= 1 and described["processor"]
    assert described["versions"]["numpy"] == np.__version__


def test_result_is_written_twice_with_the_machine(tmp_path):
    data = {"gain": np.float32(0.5), "per_kind": np.arange(2), "error": Estimate(1.0, math.nan, 1)}
    path = write_result("quality", data, "# Quality\n", results=tmp_path / "new")
    assert path.name == "quality.md"
    text = path.read_text()
    assert text.startswith("# Quality\n\n## Machine\n") and "- cores: " in text and f"numpy {np.__version__}" in text
    loaded = json.loads(path.with_suffix(".json").read_text())
    assert loaded["gain"] == 0.5 and loaded["per_kind"] == [0, 1]
    assert loaded["error"] == {"mean": 1.0, "standard_error": None, "count": 1}
    assert loaded["machine"]["command"].startswith("python")


def test_the_index_lists_every_result_and_is_up_to_date(tmp_path):
    write_result("speed", {"measured": True}, "# Speed\n\n1 ms", results=tmp_path)
    write_result("gpu", {"measured": False}, "# A GPU\n\n**Not measured: there is none.**", results=tmp_path)
    index = (tmp_path / INDEX).read_text()
    assert "| [Speed](speed.md) | [speed.json](speed.json) |" in index
    assert [line.endswith("| not measured |") for line in index.splitlines()[-2:]] == [True, False]
    committed = (RESULTS / INDEX).read_text(encoding="utf-8")
    assert committed == describe_results(RESULTS), "python -m benchmarks.report writes it again"


def test_results_of_earlier_defaults_are_marked(tmp_path, monkeypatch):
    for name in ("quality", "attention"):
        write_result(name, {}, f"# {name}", results=tmp_path)
    states = [line.split("|")[5].strip() for line in describe_results(tmp_path).splitlines()[-2:]]
    assert states == ["", ""]
    monkeypatch.setattr("benchmarks.report.hash_defaults", lambda: "other")
    states = [line.split("|")[5].strip() for line in describe_results(tmp_path).splitlines()[-2:]]
    assert states == ["", "earlier defaults"]
