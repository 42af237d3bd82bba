"""Peak memory and time of one `segrefine refine` with a model of Stable Diffusion 1.5's size.

    python -m benchmarks.peers --sizes sd15 --prepare     writes and builds the models
    python -m benchmarks.memory                           writes benchmarks/results/memory.{json,md}

One 512×512 image, a process of its own for each case, from the start of Python to the mask. Weights are random, so
every pass is computed. Linux counts the pages of mapped files that were read, too.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks.full_size import FOLDER
from benchmarks.peers import CONVINCED
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import run_command
from segrefine.assets import photo_samples

SIDE = 512
NAME = "cow"


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """A way to refine.

    Attributes:
        title: in words.
        bundle: name of the bundle's folder.
        options: of the command.
        bar: most GB at the peak; None where nothing was promised.
    """

    title: str
    bundle: str
    options: tuple[str, ...] = ()
    bar: float | None = None


OPENVINO = ("--backend", "openvino", "--precision", "bf16")
CASES = (
    MemoryCase(title="ONNX Runtime, float32", bundle="sd15-bundle", options=("--backend", "onnxruntime"), bar=5),
    MemoryCase(title="ONNX Runtime, int8", bundle="sd15-int8", options=("--backend", "onnxruntime")),
    MemoryCase(
        title="ONNX Runtime, int8, --low-memory",
        bundle="sd15-int8",
        options=("--backend", "onnxruntime", "--low-memory"),
        bar=2.5,
    ),
    MemoryCase(title="OpenVINO, bf16", bundle="sd15-bundle", options=OPENVINO),
    MemoryCase(title="OpenVINO, int8", bundle="sd15-int8", options=OPENVINO),
    MemoryCase(title="OpenVINO, int8, --low-memory", bundle="sd15-int8", options=(*OPENVINO, "--low-memory")),
)
"""Of each a run with the default settings; and with `fast`, for its time."""


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(folder: Path, threads: int) -> None:
    """Measure each case once by each preset."""
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        image, mask = _write_inputs(Path(scratch))
        settings = Path(scratch) / "settings.json"
        settings.write_text(json.dumps(CONVINCED))
        for case in CASES:
            command = ["refine", image, mask, "--label", NAME, "--bundle", folder / case.bundle, *case.options,
                       "--threads", threads, "--settings", settings, "-o", Path(scratch) / "out.png"]  # fmt: skip
            seconds, peak = run_command(*command)
            fast, _ = run_command(*command, "--preset", "fast")
            values[case.title] = {"seconds": seconds, "fast": fast, "peak": peak, "bar": case.bar}
            click.echo(f"{case.title}: {values[case.title]}")
    rows = [
        [title, f"{each['peak'] / 1e9:.2f}", f"≤ {each['bar']}" if each["bar"] else "", f"{each['seconds']:.1f}",
         f"{each['fast']:.1f}"]
        for title, each in values.items()
    ]  # fmt: skip
    header = ["engines", "peak, GB", "bar", "`default`, 20 passes, s", "`fast`, 6 passes, s"]
    text = (
        f"One `segrefine refine` of a {SIDE}×{SIDE} image, Stable Diffusion 1.5 in size with random weights, {threads} "
        "threads: the peak of the process with the default settings, and its time from the start of Python to the mask."
    )
    markdown = f"# Memory of one refinement\n\n{text}\n\n{markdown_table(header, rows)}"
    click.echo(markdown)
    write_result("memory", values, markdown)


def _write_inputs(folder: Path) -> tuple[Path, Path]:
    paths = []
    for kind in ("images", "masks"):
        source = next((photo_samples() / kind).glob(f"{NAME}.*"))
        paths.append(folder / f"{kind}.png")
        Image.open(source).resize((SIDE, SIDE)).save(paths[-1])
    return paths[0], paths[1]


if __name__ == "__main__":
    main()
