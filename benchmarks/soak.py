"""The service under load, told to stop, and under attack; writes `benchmarks/results/soak.{json,md}`.

Parts can be run alone (`--parts load`), and then leave the figures of the others as they were.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from benchmarks.report import RESULTS, machine, markdown_table, write_result
from benchmarks.serve.fuzz import fuzz
from benchmarks.serve.load import overload, stopping, throughput
from benchmarks.serve.soak import soak

PARTS = ("load", "soak", "fuzz")


def main() -> None:
    """Measures what was asked for, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--requests", type=int, default=1000, help="of the soak")
    parser.add_argument("--leak-requests", type=int, default=600, help="of its leaking control")
    parser.add_argument("--repeats", type=int, default=80, help="requests of each timing")
    parser.add_argument("--hostile", type=int, default=20_000, help="requests of the fuzz")
    asked = parser.parse_args()
    file = RESULTS / "soak.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results.pop("machine", None)
    for part in asked.parts:
        match part:
            case "load":
                figures = {"throughput": throughput(asked.repeats), "overload": overload(60), "stopping": stopping()}
            case "soak":
                figures = soak(asked.requests, asked.leak_requests)
            case _:
                figures = fuzz(asked.hostile)
        about = machine()
        results[part] = {**figures, "date": about["date"], "command": about["command"]}
        path = write_result("soak", results, _describe(results))
    print(path.read_text())


def _describe(results: Mapping[str, Any]) -> str:
    sections = {"soak": _describe_soak, "load": _describe_load, "fuzz": _describe_fuzz}
    parts = [
        f"{describe(results[part])}\n\nMeasured on {results[part]['date']} by `{results[part]['command']}`."
        for part, describe in sections.items()
        if part in results
    ]
    return "\n\n".join(["# The service under load", *parts])


def _describe_soak(figures: Mapping[str, Any]) -> str:
    ours, control = figures["service"], figures["leaking_control"]
    lost = sum(count for name, count in ours["outcomes"].items() if name != "answered")
    rows = [
        ("requests, at once", f"{ours['requests']}, {ours['at_once']}", ""),
        ("lost", lost, "0"),
        ("answers of 5xx", ours["server_errors"], "0"),
        ("memory growth after warm-up, MB", ours["memory_growth_mb"], "< 100"),
        ("memory at the end, MB", ours["memory_at_end_mb"], ""),
        (f"the same of the leaking control, {control['requests']} requests", control["memory_growth_mb"], "> 100"),
    ]
    text = "Images of 48 to 768 pixels; one in four is refined, with its rounds, the others segmented."
    note = "Clients wait and ask again where the service is full, as `segrefine.Client` does by itself."
    return f"## Soak\n\n{text}\n{note}\n\n" + markdown_table(("figure", "measured", "bar"), rows)


def _describe_load(figures: Mapping[str, Any]) -> str:
    header = ("requests", "1 client, per s", "8 clients, per s", "ratio (bar 1.5)", "mean batch", "lone p50, ms",
              "pipeline p50, ms", "lone ÷ pipeline", "files to PNG p50, ms", "lone ÷ that (bar 1.15)")  # fmt: skip
    names = ("one_client_per_second", "eight_clients_per_second", "throughput_ratio", "mean_batch", "lone_p50_ms",
             "pipeline_p50_ms", "lone_over_pipeline", "files_to_png_p50_ms", "lone_over_files_to_png")  # fmt: skip
    note = (
        "Direct calls, in one process: of the pipeline alone, and from the bytes of the files to those of the PNG.\n"
        "Clients are connections of one process that send bytes prepared before, on the cores that the service has."
    )
    rows = [(name, *(each[column] for column in names)) for name, each in figures["throughput"].items()]
    full, stop = figures["overload"], figures["stopping"]
    others = [
        (f"{full['at_once']} at once: turned away with Retry-After", full["statuses"].get("429", 0), ""),
        ("of them, longest as the client sees it, ms", full["refused_longest_ms"], "< 100"),
        ("of them, longest in the service, ms", full["refused_longest_in_the_service_ms"], ""),
        ("longest queue", full["longest_queue"], f"≤ {full['queue_bound']}"),
        ("served of the rest", full["statuses"].get("200", 0), ""),
        ("SIGTERM: not ready after, s", stop["not_ready_after_s"], "≤ 1"),
        ("accepted, and answered", f"{stop['accepted']}, {stop['statuses'].get('200', 0)}", "all"),
    ]
    return "\n\n".join(
        ["## Throughput", note, markdown_table(header, rows), "## Overload and stopping",
         markdown_table(("figure", "measured", "bar"), others)]
    )  # fmt: skip


def _describe_fuzz(figures: Mapping[str, Any]) -> str:
    rows = [
        ("hostile requests", figures["requests"], "≥ 20000"),
        ("hangs", figures["hangs"], "0"),
        ("crashes", int(figures["crashed"]), "0"),
        ("answers that are neither foreseen nor problem documents", figures["unexpected"], "0"),
        ("answers of 5xx", figures["server_errors"], ""),
        ("failures in the log", sum(figures["logged_failures"].values()), ""),
        ("healthy and idle after", "yes" if figures["healthy_after"] and figures["idle_after"] else "no", "yes"),
    ]
    answers = ", ".join(f"{count} × {name}" for name, count in figures["outcomes"].items())
    return "## Fuzz\n\n" + markdown_table(("figure", "measured", "bar"), rows) + f"\n\nAnswers: {answers}."


if __name__ == "__main__":
    main()
