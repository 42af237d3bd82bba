"""Parts that all benchmarks share: machine description, estimates with their error, tables, and writing results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from segrefine.assets import demo_bundle, free_guard_file
from segrefine.bundle import Bundle
from segrefine.runtime.guard import GUARD

RESULTS = Path(__file__).parent / "results"
INDEX = "README.md"
_INDEX_HEADER = ("results", "figures", "date", "command", "state")
_INDEX_INTRODUCTION = """# Results of the benchmarks

`python -m benchmarks.report` generates this page, and so does every benchmark that writes a result. Each result names
the machine, the versions and the command. "Earlier defaults" marks results of refining that were made before the demo
bundle's settings or the guards were changed.
"""
_REFINING = {
    "batch", "batch_costs", "confidence", "guard", "label_maps", "latency", "peers", "photographs",
    "photographs_coarse", "quality", "random_models", "scaling", "small_objects", "switches",
}  # fmt: skip
"""Results whose figures depend on the default settings and on the guards."""
PACKAGES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"),
    *("torch", "diffusers", "transformers", "opencv-python-headless", "scikit-image"),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (NaN for a single group) and the number of values."""

    mean: float
    standard_error: float
    count: int

    def __str__(self) -> str:
        """The estimate as tables show it."""
        return f"{self.mean:+.4f} ± {self.standard_error:.4f}"


def estimate(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Mean of values and its standard error, which groups of dependent values (masks of one scene) widen.

    Args:
        values: Numbers (n,).
        groups: Group of each value (n,), compared for equality; None when all are independent.

    Returns:
        The mean with the cluster-robust standard error; for groups of one, the usual one.

    Raises:
        ValueError: There are no values.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.size == 0:
        raise ValueError("expected at least one value to average; got none")
    names = np.arange(numbers.size) if groups is None else np.asarray(groups)
    _, member = np.unique(names, return_inverse=True)
    totals = np.bincount(member, numbers - numbers.mean())  # each group's pull on the mean
    count = len(totals)
    error = math.sqrt((totals**2).sum() * count / (count - 1)) / numbers.size if count > 1 else math.nan
    return Estimate(float(numbers.mean()), error, numbers.size)


def paired_difference(ours: ArrayLike, theirs: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """Mean of `ours - theirs`, measured on the same cases in the same order, with its standard error."""
    return estimate(np.subtract(ours, theirs), groups)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: first column left, the others right, floats with three digits."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def machine() -> dict[str, object]:
    """Processor, cores, memory, versions, date and command of this run, without host names or paths."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | _versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "defaults": hash_defaults(),
        "command": _command(),
    }


def hash_defaults() -> str:
    """Eight digits that change with the demo bundle's settings, its guard, and the free guard."""
    bundle = Bundle.open(demo_bundle())
    settings = json.dumps(bundle.manifest.settings, sort_keys=True).encode()
    guards = bundle.file(GUARD).read_bytes() + free_guard_file().read_bytes()
    return hashlib.sha256(settings + guards).hexdigest()[:8]


def write_result(name: str, data: Mapping[str, object], markdown: str, *, results: Path = RESULTS) -> Path:
    """Path of `NAME.md`, written beside `NAME.json`, both with the machine's description.

    Args:
        name: File name without suffix.
        data: Figures; dataclasses and NumPy values are welcome, and numbers that are not finite become null.
        markdown: What `NAME.md` says, up to the machine.
        results: Folder, created when missing.
    """
    results.mkdir(parents=True, exist_ok=True)
    described = machine()
    text = json.dumps(_plain({**data, "machine": described}), indent=2, allow_nan=False)
    (results / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    facts = "\n".join(f"- {key.replace('_', ' ')}: {_cell(value)}" for key, value in described.items())
    path = results / f"{name}.md"
    path.write_text(f"{markdown.rstrip()}\n\n## Machine\n\n{facts}\n", encoding="utf-8")
    write_index(results)
    return path


def write_index(results: Path = RESULTS) -> None:
    """Write the list of all results in a folder beside them."""
    (results / INDEX).write_text(describe_results(results), encoding="utf-8")


def describe_results(results: Path) -> str:
    """The list of all results in a folder, as Markdown."""
    rows = [_describe_result(page) for page in sorted(results.glob("*.md")) if page.name != INDEX]
    return f"{_INDEX_INTRODUCTION}\n{markdown_table(_INDEX_HEADER, rows)}\n"


def _describe_result(page: Path) -> tuple[str, str, str, str, str]:
    text = page.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    title = first.removeprefix("# ") if first.startswith("# ") else page.stem.replace("_", " ")
    figures = page.with_suffix(".json")
    machine = json.loads(figures.read_text(encoding="utf-8")).get("machine", {}) if figures.exists() else {}
    command = machine.get("command")
    return (
        f"[{title}]({page.name})",
        f"[{figures.name}]({figures.name})" if figures.exists() else "",
        machine.get("date", ""),
        f"`{command}`" if command else "",
        _describe_state(page.stem, text, machine.get("defaults")),
    )


def _describe_state(name: str, text: str, defaults: str | None) -> str:
    if "**Not measured" in text:
        return "not measured"
    return "earlier defaults" if name in _REFINING and defaults != hash_defaults() else ""


def read_result(name: str) -> dict[str, Any]:
    """The figures that `write_result` wrote, without the machine; nothing where there are none."""
    file = RESULTS / f"{name}.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {key: value for key, value in content.items() if key != "machine"}


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    """The value in JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    """The processor's name, and what it has for matrices of few bits."""
    file = Path("/proc/cpuinfo")
    described = file.read_text() if file.exists() else ""
    models, flags = re.findall(r"model name\s*: (.+)", described), set(described.split())
    extras = [flag for flag in ("avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {', '.join(extras)}" if extras else name


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _command() -> str:
    """Return the command line of this run, without the folders of absolute paths."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    program = f"-m {module}" if module else Path(sys.argv[0]).name
    arguments = [re.sub(r"(?<![^\s=])/(?:[^/]*/)*", "", argument) for argument in sys.argv[1:]]
    return " ".join(["python", program, *arguments])


if __name__ == "__main__":
    write_index()
