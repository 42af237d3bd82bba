"""Time and memory to export and load models of full size with random weights.

    python -m benchmarks.full_size_export                    writes benchmarks/results/full_size.{json,md}
    python -m benchmarks.full_size_export --models sd15      one model; the other's figures are kept

Checkpoints (15 GB) and bundles are made under --folder; those that are there are used again, exports are not.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, read_result, write_result
from benchmarks.timing import run_command
from segrefine.bundle import Bundle

_LOAD = """
import json, sys, time
began = time.perf_counter()
from segrefine import Refiner
with Refiner.from_bundle(sys.argv[1], threads=2):
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    print(json.dumps({"seconds": seconds, "held": 1024 * kib["VmRSS"], "peak": 1024 * kib["VmHWM"]}))
"""


@dataclass(frozen=True, kw_only=True)
class ExportRow:
    """One figure beside its bar."""

    what: str
    measured: float
    unit: str
    bar: float | None = None

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        measured = f"{self.measured:.1f} {self.unit}"
        if self.bar is None:
            return [self.what, measured, "", ""]
        return [self.what, measured, f"{self.bar:g} {self.unit}", "yes" if self.measured <= self.bar else "no"]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--models", multiple=True, type=click.Choice(["sd15", "sdxl"]), default=("sd15", "sdxl"))
def main(folder: Path, models: tuple[str, ...]) -> None:
    """Measure exports and loading; the figures of models that are left out are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    data = read_result("full_size")
    for name in models:
        rows = _sd15(folder) if name == "sd15" else _sdxl(folder)
        data[name] = [dataclasses.asdict(row) for row in rows]
    rows = [ExportRow(**row) for name in sorted(data) for row in data[name]]
    markdown = "\n\n".join(
        [
            "# Models of full size",
            "Exact architectures with random weights, through the command line, on the CPU. Every graph is checked "
            "against PyTorch while it is exported. Peak memory counts mapped files.",
            markdown_table(["figure", "measured", "at most", "met"], [row.cells for row in rows]),
        ]
    )
    click.echo(markdown)
    write_result("full_size", data, markdown)


def _sd15(folder: Path) -> list[ExportRow]:
    checkpoint, bundle = write_full_size("sd15", folder, torch.float32), folder / "sd15-bundle"
    seconds, peak = run_command("export", checkpoint, bundle, "--overwrite")
    build_seconds, build_peak = run_command("build-engine", bundle, "--backend", "onnxruntime")
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", _LOAD, str(bundle)], text=True))
    weights = sum(each.size for name, each in Bundle.open(bundle).manifest.files.items() if name.endswith("_data"))
    return [
        ExportRow(what="SD 1.5, all components, fp32: export", measured=seconds, bar=240, unit="s"),
        ExportRow(what="SD 1.5, all components, fp32: peak memory", measured=peak / 1e9, bar=6, unit="GB"),
        ExportRow(what="SD 1.5, building its engines", measured=build_seconds, unit="s"),
        ExportRow(what="SD 1.5, building its engines: peak memory", measured=build_peak / 1e9, unit="GB"),
        ExportRow(what="SD 1.5, load of the built engines", measured=loaded["seconds"], bar=25, unit="s"),
        ExportRow(what="SD 1.5, memory held after it ÷ weights", measured=loaded["held"] / weights, bar=1.5, unit="×"),
        ExportRow(what="SD 1.5, peak memory of it ÷ weights", measured=loaded["peak"] / weights, bar=1.5, unit="×"),
    ]


def _sdxl(folder: Path) -> list[ExportRow]:
    checkpoint = write_full_size("sdxl", folder, torch.float16)
    options = ["--dtype", "fp16", "--components", "unet", "--overwrite"]
    seconds, peak = run_command("export", checkpoint, folder / "sdxl-unet", *options)
    return [
        ExportRow(what="SDXL UNet, 2.6 billion weights, fp16: export", measured=seconds, unit="s"),
        ExportRow(what="SDXL UNet, fp16: peak memory", measured=peak / 1e9, bar=20, unit="GB"),
    ]


if __name__ == "__main__":
    main()
