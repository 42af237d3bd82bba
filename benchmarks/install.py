"""Cost of an installation: sizes of the wheel and of `[cpu]`, and the time until the first mask.

    python -m benchmarks.install        builds the wheel, installs it; writes benchmarks/results/install.*
    python -m benchmarks.install --environment PATH     measures an environment that has it already

Times are those of fresh processes. The files are in the system's cache after the first of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import click

from benchmarks.report import markdown_table, write_result
from tests.install.extras import BUILDERS, SAMPLES, build_wheel

BARS = {"[cpu] on disk, MB": 200, "wheel, MB": 22, "refine, s": 1.2, "import segrefine, s": 0.1}
Sizes: TypeAlias = dict[str, tuple[float, float]]
"""Package → megabytes on disk, and those of its compiled modules."""
LISTED = 8
"""Packages in the table of sizes."""
VERSIONS = """
import json, platform
from importlib.metadata import distributions
installed = sorted((each.name, each.version) for each in distributions())
print(json.dumps({"python": platform.python_version(), **dict(installed)}))
"""


class Times(NamedTuple):
    """Seconds of one kind of process: the shortest and the middle one, and what the shortest computed."""

    shortest: float
    median: float
    computing: float


@click.command()
@click.option(
    "--environment",
    type=click.Path(path_type=Path, exists=True, resolve_path=True),
    help="An environment that has it already.",
)
@click.option("--runs", default=9, show_default=True, help="Processes of each kind.")
def main(environment: Path | None, runs: int) -> None:
    """Measure sizes and times against their bars."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        place = environment or _install(wheel, Path(scratch) / "environment")
        sizes = _sizes(place)
        versions = _versions(place)
        kinds = {name: _time(place, words, runs) for name, words in _commands(place, Path(scratch)).items()}
        size_of_wheel = wheel.stat().st_size / 1e6
    figures = {
        "[cpu] on disk, MB": round(sum(each for each, _ in sizes.values()), 1),
        "wheel, MB": round(size_of_wheel, 1),
        "refine, s": round(kinds["refine"].shortest, 3),
        "import segrefine, s": round(kinds["import"].shortest - kinds["python"].shortest, 3),
    }
    markdown = _describe(figures, sizes, kinds, versions)
    click.echo(markdown)
    times = {name: each._asdict() for name, each in kinds.items()}
    megabytes = {name: {"whole": round(whole, 3), "compiled": round(part, 3)} for name, (whole, part) in sizes.items()}
    data = {"figures": figures, "bars": BARS, "installed": versions, "sizes": megabytes, "times": times}
    write_result("install", data, markdown)


def _describe(figures: dict[str, float], sizes: Sizes, kinds: dict[str, Times], versions: dict[str, str]) -> str:
    """The result as Markdown."""
    rows = [
        (name, f"{bar:g}", f"{figures[name]:g}", "yes" if figures[name] <= bar else "no") for name, bar in BARS.items()
    ]
    compiled = sum(part for _, part in sizes.values())
    largest = sorted(sizes.items(), key=lambda entry: -entry[1][0])[:LISTED]
    return "\n\n".join(
        [
            "# Installation",
            markdown_table(["figure", "bar", "measured", "met"], rows),
            "Times are the shortest of fresh processes. That of `import segrefine` is without Python's own start.",
            f"pip compiles the modules at once. That takes {compiled:.1f} MB. An installer that does not, such as uv, "
            f"takes {figures['[cpu] on disk, MB'] - compiled:.1f} MB in all.",
            markdown_table(
                ["process", "shortest, s", "median, s", "CPU, s"],
                [(name, *map("{:.3f}".format, kinds[name])) for name in kinds],
            ),
            markdown_table(
                ["package", "MB", "of which compiled"],
                [(name, f"{whole:.1f}", f"{part:.1f}") for name, (whole, part) in largest],
            ),
            "Installed: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        ]
    )


def _install(wheel: Path, place: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    command = [_program(place, "python"), "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"]
    subprocess.run(command, check=True)
    return place


def _program(place: Path, name: str) -> str:
    return str(place / ("Scripts" if sys.platform == "win32" else "bin") / name)


def _run(words: Sequence[str], place: Path) -> str:
    """Run a process, and return what it prints; PYTHONPATH could name a work tree, and is left out."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, check=True, capture_output=True, text=True, cwd=place, env=clean).stdout


def _versions(place: Path) -> dict[str, str]:
    """The versions of Python and of what is installed, by name; the installers are left out."""
    versions: dict[str, str] = json.loads(_run([_program(place, "python"), "-c", VERSIONS], place))
    return {name: version for name, version in versions.items() if name not in BUILDERS}


def _sizes(place: Path) -> Sizes:
    """Package → megabytes on disk, and those of compiled modules; the installers are left out."""
    [packages] = place.glob("**/site-packages")
    sizes: Sizes = {}
    for file in packages.rglob("*"):
        name = file.relative_to(packages).parts[0]
        if file.is_file() and not name.startswith(BUILDERS):
            size = file.stat().st_size / 1e6
            whole, compiled = sizes.get(name, (0.0, 0.0))
            sizes[name] = whole + size, compiled + size * (file.suffix == ".pyc")
    return sizes


def _commands(place: Path, scratch: Path) -> dict[str, list[str]]:
    """The processes that are timed."""
    python = _program(place, "python")
    samples = Path(_run([python, "-c", SAMPLES], place).strip())
    name = "01-banana-dilate.png"
    refine = [_program(place, "segrefine"), "refine", str(samples / "images" / name), str(samples / "masks" / name)]
    return {
        "python": [python, "-c", ""],
        "import": [python, "-c", "import segrefine"],
        "version": [_program(place, "segrefine"), "--version"],
        "refine": [*refine, "--label", "banana", "-o", str(scratch / "mask.png")],
    }


def _time(place: Path, words: Sequence[str], runs: int) -> Times:
    """Times of fresh processes; the first of them is not counted, since it fills the system's cache."""
    measured = []
    for _ in range(runs + 1):
        before, start = os.times(), time.perf_counter()
        _run(words, place)
        seconds, after = time.perf_counter() - start, os.times()
        computed = after.children_user + after.children_system - before.children_user - before.children_system
        measured.append((seconds, max(0.0, computed)))  # the system counts in hundredths
    counted = sorted(measured[1:])
    return Times(counted[0][0], counted[len(counted) // 2][0], min(computed for _, computed in counted))


if __name__ == "__main__":
    main()
