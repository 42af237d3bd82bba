"""A small image codec beside Stable Diffusion's own: time of encoding one image, and size.

    python -m benchmarks.small_codec

Architectures of full size with random weights: AutoencoderKL of Stable Diffusion 1.5, and TAESD's AutoencoderTiny.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import AutoencoderTiny

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import ENGINES, take_turns
from segrefine.engines import load_engine
from segrefine.export import export_bundle

PARTS = {
    "encoder": ("vae_encoder", "sample", (1, 3, 512, 512)),
    "decoder": ("vae_decoder", "latent_sample", (1, 4, 64, 64)),
}
REPEATS = 3


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(folder: Path, threads: int) -> None:
    """Export both codecs and time them."""
    torch.manual_seed(0)
    checkpoint = write_full_size("sd15", folder, torch.float32)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        small = Path(scratch) / "taesd"
        AutoencoderTiny().half().save_pretrained(small)
        names = [component for component, *_ in PARTS.values()]
        bundles = {
            title: export_bundle(checkpoint, Path(scratch) / title, vae=vae, components=names)
            for title, vae in (("own", None), ("small", small))
        }
        for part, (component, name, shape) in PARTS.items():
            feeds = {name: np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
            runs = {}
            for engine, (backend, precision) in ENGINES.items():
                for title, bundle in bundles.items():
                    loaded = stack.enter_context(
                        load_engine(bundle, component, backend, precision=precision, threads=threads)
                    )
                    runs[f"{engine} {title}"] = partial(loaded, feeds)
            seconds = {title: float(np.median(each)) for title, each in take_turns(runs, REPEATS).items()}
            sizes = {
                title: bundle.file(f"{component}/model.onnx_data").stat().st_size / 1e6
                for title, bundle in bundles.items()
            }
            for engine in ENGINES:
                own, tiny = seconds[f"{engine} own"], seconds[f"{engine} small"]
                rows.append([part, engine, f"{own:.2f}", f"{tiny:.3f}", f"{own / tiny:.1f}",
                             f"{sizes['own']:.0f}", f"{sizes['small']:.1f}"])  # fmt: skip
    header = ["part", "engine", "own, s", "small, s", "own ÷ small", "own, MB", "small, MB"]
    markdown = "\n\n".join(
        [
            "# A small image codec",
            f"One image of 512×512 pixels, random weights, {threads} threads, medians of {REPEATS} in turns. Own: the "
            "AutoencoderKL of Stable Diffusion 1.5. Small: an AutoencoderTiny, the architecture of TAESD.",
            markdown_table(header, rows),
        ]
    )
    write_result("small_codec", {"rows": rows}, markdown)
    click.echo(markdown)


if __name__ == "__main__":
    main()
