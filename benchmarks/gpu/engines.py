"""Engines on a GPU, beside PyTorch in half precision; parity with it.

    python -m benchmarks.gpu.engines      writes benchmarks/results/gpu_engines.{json,md}

The demo model's whole refine loop, and with --full-size one step of a UNet of Stable Diffusion 1.5's size. Every
backend that can run here does; what cannot is listed with its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from benchmarks.full_size import write_full_size
from benchmarks.gpu.device import name_of, require_gpu, time_in_turns
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import sample_scenes
from segrefine.assets import demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.engines import build_engine, load_engine
from segrefine.engines.cuda import open_gpu
from segrefine.errors import SegrefineError
from segrefine.export import export_bundle
from segrefine.export.comparison import named_inputs
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GraphSource, MaskedUnet
from segrefine.export.parity import check_parity, run_reference
from segrefine.export.precision import half_precision
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.runtime.pipeline import Refiner

BACKENDS, TITLE = ("tensorrt", "tensorrt-rtx", "onnxruntime"), "Engines on a GPU"
EAGER, COMPILED = "torch fp16 eager", "torch fp16 compiled"
Runs = dict[str, Callable[[], object]]


@click.command()
@click.option("--repeats", default=30, show_default=True)
@click.option("--full-size", is_flag=True, help="Also one step of Stable Diffusion 1.5's UNet, random weights.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
def main(repeats: int, full_size: bool, device: str) -> None:
    """Measure engines; `--device cpu` only tries the program out and writes nothing."""
    if device == "cuda":
        require_gpu("gpu_engines", TITLE)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        bundle = export_bundle("demo", Path(scratch) / "demo", dtype="fp16")
        built, problems = _build(bundle, device)
        times = {"demo, whole refine loop": time_in_turns(_loops(bundle, built, device, stack), device, repeats)}
        worst = {name: _parity(bundle, name, device) for name in built}
        if full_size:
            checkpoint = write_full_size("sd15", Path(scratch), torch.float16)
            large = export_bundle(checkpoint, Path(scratch) / "sd15-bundle", dtype="fp16", components=["unet"])
            ready, more = _build(large, device)
            problems |= {f"{name}, full size": problem for name, problem in more.items()}
            steps = _steps(large, checkpoint, ready, device, stack)
            times["SD 1.5 UNet, batch 2, 64×64 latents"] = time_in_turns(steps, device, repeats)
        peak = open_gpu(0).peak if device == "cuda" else 0
    rows = [
        [what, name, f"{1e3 * each:.2f}", f"{seconds[EAGER] / each:.2f}"]
        for what, seconds in times.items()
        for name, each in seconds.items()
    ]
    markdown = "\n\n".join(
        [
            f"# {TITLE}",
            f"{name_of(device)}; medians of {repeats} interleaved calls.",
            markdown_table(["what", "on", "ms", "eager ÷ this (bar: 2)"], rows),
            f"Device memory at the peak, of the engines with their weights and of PyTorch: {peak / 2**20:.0f} MiB.",
            "## Parity with PyTorch in float32, as a share of its tolerance",
            markdown_table(
                ["engine", "worst comparison", "error ÷ tolerance"], [[n, *row] for n, row in worst.items()]
            ),
            *(["## Not run", markdown_table(["engine", "because"], list(problems.items()))] if problems else []),
        ]
    )
    click.echo(markdown)
    if device == "cuda":
        write_result(
            "gpu_engines", {"seconds": times, "parity": worst, "peak_bytes": peak, "not_run": problems}, markdown
        )
    if wrong := [name for name, (_, share) in worst.items() if not float(share) <= 1]:
        raise click.ClickException(f"past the tolerance of parity: {', '.join(wrong)}")


def _build(bundle: Bundle, device: str) -> tuple[list[str], dict[str, str]]:
    """The backends whose engines could be built here and load, and why the others could not."""
    built, problems = [], {}
    for backend in BACKENDS if device == "cuda" else ("onnxruntime",):
        try:
            build_engine(bundle, backend=backend, device=device)
            load_engine(bundle, next(iter(bundle.manifest.graphs)), backend, device=device).close()
        except SegrefineError as error:
            problems[backend] = str(error)
        else:
            built.append(backend)
    return built, problems


def _loops(bundle: Bundle, backends: list[str], device: str, stack: ExitStack) -> Runs:
    """The whole loop, edge step included, by PyTorch in half precision and by the engines."""
    scene = sample_scenes()[0]
    refiners = {
        name: stack.enter_context(Refiner.from_bundle(bundle.path, backend=name, device=device)) for name in backends
    }
    any_of = next(iter(refiners.values()), None) or stack.enter_context(Refiner.from_bundle(bundle.path))
    eager, compiled = (_half_reference(any_of, device) for _ in range(2))
    compiled.model.unet.compile()
    return {
        EAGER: partial(run_reference, any_of, eager, scene, device),
        COMPILED: partial(run_reference, any_of, compiled, scene, device),
        **{name: partial(refiner, scene.image, scene.coarse, scene.label) for name, refiner in refiners.items()},
    }


def _half_reference(refiner: Refiner, device: str) -> G4Seg:
    """The reference on the device, its UNet in half precision and all around it in float32, as in the graphs."""
    checkpoint = load_checkpoint(demo_checkpoint())
    parts: tuple[nn.Module, ...] = (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder)
    for part in parts:
        part.to(device)
    _halve(checkpoint.unet)
    return G4Seg(checkpoint, refiner.settings, refiner.bundle.manifest.feature_taps)


def _halve(unet: nn.Module) -> None:
    """Half precision inside, float32 outside."""
    unet.half()
    unet.register_forward_pre_hook(
        lambda _, inputs: tuple(each.half() if each.is_floating_point() else each for each in inputs)
    )
    unet.register_forward_hook(lambda _, __, output: setattr(output, "sample", output.sample.float()))


def _parity(bundle: Bundle, backend: str, device: str) -> tuple[str, str]:
    rows = check_parity(bundle.path, demo_checkpoint(), sample_scenes(), backend=backend, device=device)
    worst = max(rows, key=lambda row: row.error / row.tolerance)
    return f"{worst.component}, {worst.step}", f"{worst.error / worst.tolerance:.2f}"


def _steps(bundle: Bundle, checkpoint: Path, backends: list[str], device: str, stack: ExitStack) -> Runs:
    """One step of the UNet under a mask: inputs from the host, outputs back to it, for all alike."""
    loaded = load_checkpoint(checkpoint)
    source = GraphSource(checkpoint=loaded, attend=attend_naive, taps=bundle.manifest.feature_taps)
    module = MaskedUnet(source, "unet")
    sizes = {"batch": 2, "height": 64, "width": 64, "pixels": 4096, "tokens": bundle.manifest.tokens}
    inputs = example_inputs(module, sizes)
    feeds = named_inputs(module, inputs)
    stack.enter_context(half_precision(module))
    module.to(device)

    def eager(call: Callable[..., Sequence[Tensor]]) -> None:
        with torch.inference_mode():
            for each in call(*(tensor.to(device) for tensor in inputs)):
                each.cpu()

    engines = {name: stack.enter_context(load_engine(bundle, "unet", name, device=device)) for name in backends}
    return {
        EAGER: partial(eager, module),
        COMPILED: partial(eager, torch.compile(module)),
        **{name: partial(engine, feeds, only="out_sample") for name, engine in engines.items()},
    }


if __name__ == "__main__":
    main()
