"""The cost of an installation: what is counted, and from where modules come."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.install import Times, _describe, _run, _sizes


def test_sizes_count_compiled_modules_and_leave_out_the_installers(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    for name, size in (("one/a.py", 3), ("one/__pycache__/a.pyc", 2), ("two.py", 4), ("pip/a.py", 9), ("pip-1/M", 9)):
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size * 1_000_000))
    assert _sizes(tmp_path) == {"one": (5.0, 2.0), "two.py": (4.0, 0.0)}


def test_processes_import_what_is_installed_and_not_a_work_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "tree"))
    assert str(tmp_path / "tree") not in _run([sys.executable, "-c", "import sys; print(sys.path)"], Path("/"))


def test_a_missed_bar_is_shown() -> None:
    figures = {"[cpu] on disk, MB": 200.1, "wheel, MB": 22.0, "refine, s": 0.9, "import segrefine, s": 0.01}
    page = _describe(figures, {"one": (200.1, 25.0)}, {"python": Times(0.1, 0.2, 0.05)}, {"python": "3.11.7"})
    assert "| [cpu] on disk, MB | 200 | 200.1 | no |" in page
    assert "| wheel, MB | 22 | 22 | yes |" in page
    assert "takes 175.1 MB in all" in page and "Installed: python 3.11.7." in page
