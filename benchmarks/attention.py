"""Cost of masked attention's low-rank bias, folded into q and k, compared with plain attention.

    python -m benchmarks.attention      writes benchmarks/results/attention.{json,md}

One attention layer of Stable Diffusion 1.5 at 64×64 latents, on ONNX Runtime: plain, with the bias folded (as export
writes it, and as `build-engine` makes it for CPUs), and with the bias as an N×N matrix. Peak memory is that of a
process of its own, less what it had before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx.parser import parse_model

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import take_turns
from segrefine.engines.onnxruntime.attention import with_flash_attention
from segrefine.export.functions import attach_functions
from segrefine.export.ops import DOMAIN

HEADS, WIDTH, RANK = 8, 40, 2
PLAIN, PLAIN_FLASH = "plain, standard op", "plain, ONNX Runtime's op"
EXPORTED, BUILT, WRITTEN_OUT = "bias folded, as exported", "bias folded, engine", "bias as a matrix"
_SCALE = f"scale: float = {WIDTH**-0.5}"
_MASKED = f"output = {DOMAIN}.MaskedAttention <{_SCALE}> (q, k, v, a, b)"
WAYS = {
    PLAIN: f"output = Attention <{_SCALE}> (q, k, v)",
    PLAIN_FLASH: f"""
        heads_apart = Constant <value_ints: ints = [{HEADS}, -1, {WIDTH}]> ()
        flat_q = Reshape (q, heads_apart)
        flat_k = Reshape (k, heads_apart)
        flat_v = Reshape (v, heads_apart)
        attended = com.microsoft.MultiHeadAttention <num_heads: int = 1, {_SCALE}> (flat_q, flat_k, flat_v)
        size = Shape (q)
        output = Reshape (attended, size)""",
    EXPORTED: _MASKED,
    BUILT: _MASKED,
    WRITTEN_OUT: f"""
        columns = Transpose <perm = [0, 2, 1]> (b)
        bias = MatMul (a, columns)
        output = Attention <{_SCALE}> (q, k, v, bias)""",
}
"""The ways, and the body of each one's graph."""
Run = Callable[[], NDArray[np.float32]]


@click.command()
@click.option("--pixels", default=4096, show_default=True, help="Queries, and keys.")
@click.option("--repeats", default=9, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--peak-of", help="Print the peak memory of one way instead; for this script's own use.")
def main(pixels: int, repeats: int, threads: int, peak_of: str | None) -> None:
    """Measure time and memory of masked attention."""
    if peak_of:
        click.echo(json.dumps(_peak(_prepare(peak_of, pixels, threads))))
        return
    runs = {name: _prepare(name, pixels, threads) for name in WAYS}
    error = float(np.abs(runs[BUILT]() - runs[WRITTEN_OUT]()).max())
    times = take_turns(runs, repeats)
    medians = {name: float(np.median(each)) for name, each in times.items()}
    peaks = {name: _peak_elsewhere(name, pixels, threads) for name in runs}
    fastest = min(medians[PLAIN], medians[PLAIN_FLASH])
    slower, share = medians[BUILT] / fastest, peaks[BUILT] / peaks[WRITTEN_OUT]
    rows = [
        [name, f"{1e3 * medians[name]:.0f}", f"{medians[name] / fastest:.2f}", f"{peaks[name] / 2**20:.0f}"]
        for name in runs
    ]
    markdown = "\n\n".join(
        [
            "# Masked attention",
            f"{HEADS} heads of width {WIDTH}, {pixels} queries and keys, bias of rank {RANK}, float32, ONNX Runtime, "
            f"threads: {threads}; {repeats} interleaved calls each, medians.",
            f"**Engine ÷ the faster plain one, time = {slower:.2f}** (bar: 1.1 or less). **Engine ÷ bias "
            f"as a matrix, peak memory = {share:.2f}** (bar: 0.1 or less). Largest difference of the two: {error:.1e}.",
            markdown_table(["attention", "ms", "÷ plain", "peak memory, MiB"], rows),
        ]
    )
    click.echo(markdown)
    write_result("attention", {"seconds": times, "peak_bytes": peaks, "built_over_plain": slower}, markdown)


def _prepare(name: str, pixels: int, threads: int) -> Run:
    """One run of attention in this way, on seeded inputs."""
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys("qkv", (1, HEADS, pixels, WIDTH)) | dict.fromkeys("ab", (1, pixels, RANK))
    feeds = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    graph = _graph(_model(name, pixels), flash=name == BUILT)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    return partial(_first, session, taken)


def _graph(model: ir.Model, *, flash: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path)
        return with_flash_attention(path) if flash else path.read_bytes()


def _first(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    output: NDArray[np.float32] = session.run(None, feeds)[0]
    return output


def _model(name: str, pixels: int) -> ir.Model:
    size, factors = f"float[1,{HEADS},{pixels},{WIDTH}]", f"float[1,{pixels},{RANK}]"
    text = f"""<ir_version: 10, opset_import: ["": 23, "{DOMAIN}": 1, "com.microsoft": 1]>
        attention ({size} q, {size} k, {size} v, {factors} a, {factors} b) => ({size} output) {{ {WAYS[name]} }}"""
    model = ir.serde.deserialize_model(parse_model(text))
    attach_functions(model)
    return model


def _peak(run: Run) -> int:
    """Bytes that running takes at most, beyond what the process had before."""
    before = _high_water()
    run()
    return _high_water() - before


def _high_water() -> int:
    """The most memory that this program has had, bytes; `getrusage` would count what its parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _peak_elsewhere(name: str, pixels: int, threads: int) -> int:
    command = [sys.executable, "-m", "benchmarks.attention", "--peak-of", name]
    options = ["--pixels", str(pixels), "--threads", str(threads)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


if __name__ == "__main__":
    main()
