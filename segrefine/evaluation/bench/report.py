"""The report of a benchmark: a JSON that can be cited, a table beside published figures, and a sheet of cases."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from segrefine import __version__
from segrefine.batch.options import describe_options
from segrefine.bundle import Bundle
from segrefine.bundle_sources import local_bundle
from segrefine.datasets.notation import Notation
from segrefine.engines import BACKENDS
from segrefine.errors import SegrefineError
from segrefine.evaluation.bench.benchmarks import Published
from segrefine.evaluation.bench.run import OURS, BenchOutcome
from segrefine.evaluation.bench.scoring import Scored
from segrefine.evaluation.protocols.table import PROTOCOLS
from segrefine.evaluation.sheet import draw_cases
from segrefine.runtime.files.output import save_image, write_whole
from segrefine.settings import BUNDLE_SETTINGS

REPORT, TABLE, SHEET = "bench.json", "bench.md", "sheet.png"
_PACKAGES = ("numpy", "pillow", *(package for backend in BACKENDS.values() for package in backend.packages))
"""Whose versions a report has."""


def write_report(outcome: BenchOutcome, cases: int) -> dict[str, Any]:
    """Write the report into the folder of the run, and give what its JSON says.

    Args:
        outcome: what the run gave.
        cases: best and worst cases on the sheet, of either.

    Raises:
        OutputError: there is no place.
    """
    output = outcome.plan.job.output
    values = describe_outcome(outcome)
    values["sheet"] = _write_sheet(outcome, output / SHEET, cases)
    write_whole(output / TABLE, to_markdown(values).encode())
    write_whole(output / REPORT, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
    return values


def describe_outcome(outcome: BenchOutcome) -> dict[str, Any]:
    """All that is known of a run, as JSON values."""
    plan, job = outcome.plan, outcome.plan.job
    truth = outcome.scored[-1].comparison.truth_notation
    split = truth.place.benchmark.split if truth.place.benchmark else job.reading.split
    split = Path(split).stem if split and Path(split).is_file() else split
    return {
        "benchmark": plan.spec.name,
        "title": plan.spec.title,
        "split": split or ("val2017" if plan.spec.name == "png" else "val"),
        "masks_from": "found by the model" if job.reading.zero_shot else "coarse masks, refined",
        "methods": {each.name: each.values for each in outcome.scored},
        "protocols": {name: PROTOCOLS[name].source for name in plan.spec.protocols},
        "published": [_to_json(each) for each in plan.spec.published],
        "lacks": list(outcome.scored[-1].comparison.lacks),
        "remarks": list(outcome.scored[-1].comparison.remarks),
        "failures": list(outcome.failures),
        "unread": list(outcome.scored[-1].values["unread"]),
        "peak_memory": outcome.peak_memory,
        "settings": _settings(outcome),
        "options": describe_options(job),
        "data": {"hashes": _hash_data(outcome.dataset, truth)},
        "versions": {"segrefine": __version__, "python": platform.python_version(), **dict(_versions())},
        "machine": {"system": platform.platform(), "processor": platform.processor(), "cores": os.cpu_count()},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": plan.command,
    }


def _settings(outcome: BenchOutcome) -> dict[str, Any]:
    setup = outcome.plan.job.setup
    manifest = Bundle.open(local_bundle(setup.bundle)).manifest
    changes: Any = setup.settings
    own = BUNDLE_SETTINGS[manifest.method].from_dict(manifest.settings)
    return dict(own.change(changes).to_dict())


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _to_json(published: Published) -> dict[str, Any]:
    return {
        "method": published.method, "split": published.split, "figures": dict(published.figures),
        "source": published.source,
    }  # fmt: skip


def _hash_data(dataset: Notation, truth: Notation) -> dict[str, str]:
    """The hash of the true masks, and of the coarse ones."""
    return {
        "truth": _hash(_files_of(truth, truth.entries.values())),
        "refined": _hash(_files_of(dataset, dataset.items)),
    }


def _files_of(data: Notation, items: Iterable[Any]) -> list[Path]:
    """The files that the masks of a data set lie in."""
    if data.place.masks.is_file():
        return [data.place.masks]
    return [data.place.masks / file for item in items for file in item.masks if isinstance(file, str)]


def _hash(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in hexadecimal."""
    found = hashlib.sha256()
    for file in sorted(set(files)):
        if file.is_file():
            found.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def _write_sheet(outcome: BenchOutcome, file: Path, cases: int) -> str | None:
    """Write the sheet of our best and worst cases; None where no image can be shown."""
    ours = outcome.scored[-1]
    try:
        picture, _ = draw_cases(ours.comparison, _unambiguous(ours), cases)
    except SegrefineError:
        return None
    save_image(file, picture)
    return str(file)


def _unambiguous(scored: Scored) -> list[Any]:
    """The scores of images that could be compared."""
    return [score for score in scored.scores if score.counted]


def to_rows(values: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: each method, then what is published. Measures are in percent."""
    titles = [figure.title for figure, _ in _figures(values, OURS)]
    header = ["method", *titles, "masks: IoU", "boundary IoU", "made worse", "s/image"]
    lines = []
    for name, method in values["methods"].items():
        masks = method["masks"]
        lines.append([
            name, *(_percent(value) for _, value in _figures(values, name)), _percent(masks["iou"]),
            _percent(masks["boundary_iou"]), _percent(masks.get("made_worse")), _number(method["seconds_per_image"]),
        ])  # fmt: skip
    for row in values["published"]:
        if row["split"] == values["split"] or f"{row['split']}2017" == values["split"]:
            figures = [f"{row['figures'][title]:.1f}" if title in row["figures"] else "" for title in titles]
            lines.append([f"{row['method']} (published)", *figures, "", "", "", ""])
    return header, lines


def _figures(values: Mapping[str, Any], name: str) -> list[tuple[Any, float | None]]:
    """The measures of a method by the benchmark's first protocol."""
    protocols = values["methods"][name]["protocols"]
    if not protocols:
        return []
    first, summary = next(iter(protocols.items()))
    return [(figure, figure.of(summary)) for figure in PROTOCOLS[first].figures(summary)]


def to_markdown(values: Mapping[str, Any]) -> str:
    """The report for people."""
    header, lines = to_rows(values)
    rule = [":--", *["--:"] * (len(header) - 1)]
    table = "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *lines))
    ours = values["methods"][OURS]
    facts = [
        f"{ours['images']} images; {ours['failed']} failed. Masks: {ours['masks']['count']} ({ours['masks']['rule']}).",
        *(f"Protocol {name}: {source}." for name, source in values["protocols"].items()),
        *(f"Note: {sentence}." for sentence in (*values["lacks"], *values["remarks"])),
        *([f"Note: the masks of {len(values['unread'])} images cannot be compared."] if values["unread"] else []),
        f"segrefine {values['versions']['segrefine']}, {values['date']}: `{values['command']}`",
    ]
    sources = sorted({f"{row['method']}: {row['source']}" for row in values["published"]})
    published = "".join(f"- {source}\n" for source in sources)
    title = f"# {values['title']}, {values['split']}\n\n"
    tail = f"\nPublished figures:\n\n{published}" if published else ""
    return title + table + "\n" + "\n\n".join(facts) + "\n" + tail


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
