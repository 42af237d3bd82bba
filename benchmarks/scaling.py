"""Growth of time and memory: eight labels of an image against one, and twice the side of the image.

    python -m benchmarks.scaling                   writes benchmarks/results/scaling.{json,md}
    python -m benchmarks.scaling --sizes demo      one size of model; the other's figures are kept

Every case has a process of its own in every round, so that its peak memory is its own; they take turns. At the size of
Stable Diffusion 1.5 weights are random: masks mean nothing there, time and memory do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from benchmarks.full_size import FOLDER
from benchmarks.peers import TITLES
from benchmarks.report import markdown_table, read_result, write_result
from segrefine.assets import demo_bundle

THREADS = 2
_WORKER = """
import json, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from segrefine import Refiner
from segrefine.assets import demo_samples
from segrefine.cli.samples import load_samples  # not those of benchmarks.timing: PyTorch's memory is not ours
from segrefine.settings import G4SegSettings

def peak():
    status = Path("/proc/self/status").read_text()  # a child's ru_maxrss begins at what its parent held
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

job = json.loads(sys.argv[1])
backend, precision = job["backend"]
scene, size = next(iter(load_samples(demo_samples()).values())), (job["side"], job["side"])
image = np.asarray(Image.fromarray(scene.image).resize(size, Image.Resampling.BICUBIC))
coarse = np.asarray(Image.fromarray(scene.coarse).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
masks = [("fox", np.roll(coarse, number * job["side"] // 8, 1)) for number in range(job["labels"])]
with Refiner.from_bundle(
    job["bundle"], backend=backend, precision=precision, threads=job["threads"], resolution=job["side"],
    settings=job["settings"],
) as refiner:
    opened, seconds = peak(), []
    for _ in range(1 + job["repeats"]):
        began = time.perf_counter()
        refiner(image, masks)
        seconds.append(time.perf_counter() - began)
print(json.dumps({"seconds": seconds[1:] or seconds, "opened": opened, "peak": peak()}))
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and how much of it is measured.

    Attributes:
        bundle: the model.
        side: of images as the model sees them, in pixels.
        settings: other settings than the bundle's.
        rounds: processes of each case.
        repeats: measured runs in each process after a first one; 0 for that one alone, compiling included.
        backends: what runs it.
    """

    bundle: Path
    side: int
    settings: dict[str, Any]
    rounds: int
    repeats: int
    backends: Sequence[tuple[str, str]] = (("onnxruntime", "fp32"), ("openvino", "bf16"))


@click.command()
@click.option("--sizes", multiple=True, type=click.Choice(list(TITLES)), default=tuple(TITLES))
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def main(sizes: tuple[str, ...], folder: Path) -> None:
    """Measure how a refinement's time and memory grow with labels and with the image."""
    known = {
        "demo": Size(bundle=demo_bundle(), side=64, settings={}, rounds=3, repeats=5),
        "sd15": Size(
            bundle=folder / "sd15-bundle",  # of `benchmarks.peers` or `benchmarks.full_size_export`
            side=512,
            settings={"noises": 1, "text_strengths": [6.0], "joint_strengths": [6.0]},
            rounds=1,
            repeats=0,
            backends=(("openvino", "bf16"),),  # the fastest; the other takes a quarter of an hour
        ),
    }
    data = read_result("scaling")
    for name in sizes:
        data[name] = {" ".join(backend): _measure(known[name], backend) for backend in known[name].backends}
    tables = [_table(data[name], TITLES[name]) for name in TITLES if name in data]
    markdown = "\n\n".join(["# How time and memory grow", *tables])
    click.echo(markdown)
    write_result("scaling", data, markdown)


def _measure(size: Size, backend: tuple[str, str]) -> dict[str, Any]:
    """Seconds and peak memory of each case."""
    cases = {"one label": (1, size.side), "eight labels": (8, size.side), "twice the side": (1, 2 * size.side)}
    found: dict[str, Any] = {case: {"seconds": [], "opened": [], "peak": []} for case in cases}
    for _ in tqdm(range(size.rounds), desc=backend[0]):
        for case, (labels, side) in cases.items():
            job = {"bundle": str(size.bundle), "backend": backend, "labels": labels, "side": side, "threads": THREADS,
                   "settings": size.settings, "repeats": size.repeats}  # fmt: skip
            worker = [sys.executable, "-c", _WORKER, json.dumps(job)]
            told = json.loads(subprocess.check_output(worker, text=True).splitlines()[-1])
            found[case]["seconds"] += told["seconds"]
            for what in ("opened", "peak"):
                found[case][what].append(told[what])
    return found


def _table(measured: dict[str, Any], title: str) -> str:
    rows = []
    for backend, cases in measured.items():
        seconds = {case: float(np.median(each["seconds"])) for case, each in cases.items()}
        peak = {case: float(np.median(each["peak"])) / 2**20 for case, each in cases.items()}
        one, eight, twice = cases
        rows.append(
            [
                *(backend, *(f"{seconds[case]:.3g}" for case in cases)),
                *(f"{seconds[eight] / seconds[one]:.2f}", f"{seconds[twice] / seconds[one]:.2f}"),
                *(f"{peak[case]:.0f}" for case in (one, eight)),
                f"{peak[eight] / peak[one]:.2f}",
            ]
        )
    header = ["engines", "one label, s", "eight labels, s", "twice the side, s", "8 ÷ 1 (bar: 4)",
              "twice ÷ once (bar: 6)", "one, MiB", "eight, MiB", "8 ÷ 1 (bar: 2)"]  # fmt: skip
    return f"## {title}\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    main()
