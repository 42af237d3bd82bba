"""What models of full size take to export and to load, in time and memory; random weights.

    python -m benchmarks.full_size_export      writes benchmarks/results/full_size.{json,md}

Checkpoints (15 GB) and bundles are made under --folder; those that are there are used again, exports are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, write_result
from segrefine.bundle import Bundle

_LOAD = """
import json, sys, time, resource
began = time.perf_counter()
from segrefine import Refiner
with Refiner.from_bundle(sys.argv[1], threads=2):
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    print(json.dumps({"seconds": seconds, "held": 1024 * kib["VmRSS"], "peak": 1024 * kib["VmHWM"]}))
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure beside its bar."""

    what: str
    measured: float
    bar: float
    unit: str

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        met = "yes" if self.measured <= self.bar else "no"
        return [self.what, f"{self.measured:.1f} {self.unit}", f"{self.bar:g} {self.unit}", met]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def main(folder: Path) -> None:
    """Measure exports and loading."""
    folder.mkdir(parents=True, exist_ok=True)
    sd15 = write_full_size("sd15", folder, torch.float32)
    sdxl = write_full_size("sdxl", folder, torch.float16)
    bundle = folder / "sd15-bundle"
    seconds, peak = _run("export", sd15, bundle, "--overwrite")
    rows = [
        Row(what="SD 1.5, all components, fp32: time", measured=seconds, bar=240, unit="s"),
        Row(what="SD 1.5, all components, fp32: peak memory", measured=peak / 2**30, bar=6, unit="GiB"),
    ]
    options = ["--dtype", "fp16", "--components", "unet", "--overwrite"]
    xl_seconds, peak = _run("export", sdxl, folder / "sdxl-unet", *options)
    rows.append(Row(what="SDXL UNet, fp16: peak memory", measured=peak / 2**30, bar=20, unit="GiB"))
    build_seconds, build_peak = _run("build-engine", bundle, "--backend", "onnxruntime")
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", _LOAD, str(bundle)], text=True))
    weights = sum(each.size for name, each in Bundle.open(bundle).manifest.files.items() if name.endswith("_data"))
    rows += [
        Row(what="SD 1.5, load of the built engines", measured=loaded["seconds"], bar=25, unit="s"),
        Row(what="SD 1.5, memory held ÷ weights", measured=loaded["held"] / weights, bar=1.5, unit="×"),
        Row(what="SD 1.5, peak memory of loading ÷ weights", measured=loaded["peak"] / weights, bar=1.5, unit="×"),
    ]
    markdown = "\n\n".join(
        [
            "# Models of full size",
            "Exact architectures with random weights, through the command line, on the CPU. Every graph is checked "
            "against PyTorch while it is exported. Peak memory counts mapped files.",
            markdown_table(["figure", "measured", "at most", "met"], [row.cells for row in rows]),
            f"The export of the SDXL UNet (2.6 billion weights) took {xl_seconds:.0f} s. Building the engines of SD "
            f"1.5 took {build_seconds:.0f} s and {build_peak / 2**30:.1f} GiB; its weights are {weights / 1e9:.2f} GB.",
        ]
    )
    click.echo(markdown)
    write_result("full_size", {row.what: row.measured for row in rows}, markdown)


def _run(*arguments: object) -> tuple[float, int]:
    """Seconds that a command takes, and the most memory that it or a process of its had, bytes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "segrefine.cli", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - began, 1024 * usage.ru_maxrss


if __name__ == "__main__":
    main()
