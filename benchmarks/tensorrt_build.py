"""Cost of building a TensorRT-RTX engine of full size, on a machine without a GPU.

    python -m benchmarks.tensorrt_build      writes benchmarks/results/tensorrt_build.{json,md}

The UNet of Stable Diffusion 1.5 (random weights, half precision, with mask injection) for one compute capability. The
export, which takes longer than the build, is kept for the next run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import run_command
from segrefine.bundle import Bundle

LIMITS = (["--min-shapes", "batch=1,height=16,width=16"], ["--opt-shapes", "batch=2,height=64,width=64"],
          ["--max-shapes", "batch=4,height=64,width=64"])  # fmt: skip
BARS = {"seconds": 60, "peak GiB": 8}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--compute-capability", default="8.9", show_default=True)
def main(folder: Path, compute_capability: str) -> None:
    """Measure an ahead-of-time build."""
    bundle, exported = _export(folder)
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    options = [option for limit in LIMITS for option in limit]
    wanted = ["--components", "unet", "--backend", "tensorrt-rtx", "--compute-capability", compute_capability]
    seconds, peak = run_command("build-engine", str(bundle), *wanted, *options)
    (engine,) = (bundle / "engines").rglob("*.engine")
    weights = sum(path.stat().st_size for path in (bundle / "unet").iterdir())
    measured = {"seconds": seconds, "peak GiB": peak / 2**30}
    rows = [
        [name, bar, f"{measured[name]:.1f}", "yes" if measured[name] <= bar else "no"] for name, bar in BARS.items()
    ]
    sizes = f"Engine {engine.stat().st_size / 1e9:.2f} GB, graph and weights {weights / 1e9:.2f} GB."
    markdown = "\n\n".join(
        [
            "# An engine of full size",
            "The UNet of Stable Diffusion 1.5 with mask injection, half precision, batches of 1 to 4, latents of 16 to "
            f"64 pixels a side, for compute capability {compute_capability}, on TensorRT-RTX without a GPU. {sizes}",
            markdown_table(["build", "at most", "measured", "met"], rows),
            f"Peak memory is that of the builder's process. {exported}",
        ]
    )
    click.echo(markdown)
    write_result("tensorrt_build", measured | {"engine_bytes": engine.stat().st_size}, markdown)


def _export(folder: Path) -> tuple[Path, str]:
    """The bundle of the UNet, and a sentence on what its export took."""
    bundle, note = folder / "sd15-fp16-bundle", folder / "export.txt"
    if not bundle.exists():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = write_full_size("sd15", folder, torch.float16)
        arguments = ["--dtype", "fp16", "--components", "unet"]
        seconds, peak = run_command("export", str(checkpoint), str(bundle), *arguments)
        note.write_text(f"The export took {seconds:.0f} s and {peak / 2**30:.1f} GiB.")
    Bundle.open(bundle)
    return bundle, note.read_text()


if __name__ == "__main__":
    main()
