"""Costs of attention maps: graphs of full size with random weights, on ONNX Runtime.

    python -m benchmarks.attention_maps                  writes benchmarks/results/attention_maps.*
    python -m benchmarks.attention_maps --models demo    one model; the others' figures are kept

The exports are held against PyTorch while they are made (at most 1e-4 of an output's range).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, read_result, write_result
from benchmarks.timing import take_turns
from segrefine.assets import demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.engines import load_engines
from segrefine.export import export_bundle
from segrefine.export.bundle_export import TOLERANCE

_PARTS = ["unet", "unet_features", "unet_attention"]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--models", multiple=True, type=click.Choice(["demo", "sd15", "sdxl"]), default=("demo", "sd15"))
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, models: tuple[str, ...], repeats: int, threads: int) -> None:
    """Measure the maps of attention."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = dict(read_result("attention_maps"))
    except FileNotFoundError:
        data = {}
    for name in models:
        data[name] = _measure(name, folder, repeats, threads)
    rows = [
        [name, each["nodes"], each["nodes_alone"], f"{each['seconds']:.2f} s", f"{each['ratio']:.2f} ×", "≤ 1.15 ×"]
        for name in ("demo", "sd15", "sdxl")
        if (each := data.get(name))
    ]
    markdown = "\n\n".join(
        [
            "# Maps of attention",
            "Every graph is held against PyTorch while it is exported: errors are at most "
            f"{TOLERANCE['fp32']:g} of the range. The UNet's graph has as many nodes with the maps as without: nobody "
            "pays who does not ask. Time is the median of interleaved passes at the model's own size.",
            markdown_table(
                ["model", "nodes of the UNet", "exported alone", "UNet pass", "pass with maps ÷ UNet pass", "bar"], rows
            ),
        ]
    )
    click.echo(markdown)
    write_result("attention_maps", data, markdown)


def _measure(name: str, folder: Path, repeats: int, threads: int) -> dict[str, Any]:
    checkpoint = demo_checkpoint() if name == "demo" else write_full_size(name, folder, torch.float32)
    bundle = export_bundle(checkpoint, folder / f"{name}-maps", components=_PARTS, overwrite=True, progress=click.echo)
    alone = export_bundle(
        checkpoint, folder / f"{name}-alone", components=["unet"], overwrite=True, progress=click.echo
    )
    engines = load_engines(bundle, ["unet", "unet_attention"], "onnxruntime", threads=threads)
    feeds = _feeds(bundle)
    times = take_turns({part: partial(engine, feeds) for part, engine in engines.items()}, repeats)
    for engine in engines.values():
        engine.close()
    medians = {part: float(np.median(each)) for part, each in times.items()}
    return {
        "nodes": _count_nodes(bundle), "nodes_alone": _count_nodes(alone), "seconds": medians["unet"],
        "ratio": medians["unet_attention"] / medians["unet"],
    }  # fmt: skip


def _count_nodes(bundle: Bundle) -> int:
    return len(onnx.load(bundle.graph("unet"), load_external_data=False).graph.node)


def _feeds(bundle: Bundle) -> dict[str, Any]:
    """Random inputs of one sample at the model's own size, and no mask."""
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    sizes = {"batch": 1, "height": manifest.sample_size, "width": manifest.sample_size, "tokens": manifest.tokens}
    feeds: dict[str, Any] = {}
    for tensor in manifest.components["unet"].inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        if tensor.dtype == "int64":
            feeds[tensor.name] = np.full(shape, 50, np.int64)
        elif tensor.name in ("foreground", "strength"):
            feeds[tensor.name] = np.zeros(shape, np.float32)
        else:
            feeds[tensor.name] = rng.standard_normal(shape, np.float32)
    return feeds


if __name__ == "__main__":
    main()
