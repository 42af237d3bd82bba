"""What the low-rank bias of masked attention costs when it is folded into q and k, beside plain attention.

    python -m benchmarks.attention      writes benchmarks/results/attention.{json,md}

One attention layer of Stable Diffusion 1.5 at 64×64 latents, on ONNX Runtime: plain, with the bias folded (what export
writes), and with the bias as an N×N matrix. Peak memory is that of a process of its own, less what it had before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import take_turns
from segrefine.export.functions import attach_functions
from segrefine.export.ops import DOMAIN

HEADS, WIDTH, RANK = 8, 40, 2
PLAIN, FOLDED, WRITTEN_OUT = "plain", "bias folded", "bias as a matrix"
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
    runs = {name: _prepare(name, pixels, threads) for name in (PLAIN, FOLDED, WRITTEN_OUT)}
    error = float(np.abs(runs[FOLDED]() - runs[WRITTEN_OUT]()).max())
    times = take_turns(runs, repeats)
    medians = {name: float(np.median(each)) for name, each in times.items()}
    peaks = {name: _peak_elsewhere(name, pixels, threads) for name in runs}
    slower, share = medians[FOLDED] / medians[PLAIN], peaks[FOLDED] / peaks[WRITTEN_OUT]
    rows = [
        [name, f"{1e3 * medians[name]:.0f}", f"{medians[name] / medians[PLAIN]:.2f}", f"{peaks[name] / 2**20:.0f}"]
        for name in runs
    ]
    markdown = "\n\n".join(
        [
            "# Masked attention",
            f"{HEADS} heads of width {WIDTH}, {pixels} queries and keys, bias of rank {RANK}, float32, ONNX Runtime, "
            f"threads: {threads}; {repeats} interleaved calls each, medians.",
            f"**Folded ÷ plain, time = {slower:.2f}** (bar: 1.1 or less). **Folded ÷ bias as a matrix, peak memory = "
            f"{share:.2f}** (bar: 0.1 or less). Largest difference of the two: {error:.1e}.",
            markdown_table(["attention", "ms", "÷ plain", "peak memory, MiB"], rows),
        ]
    )
    click.echo(markdown)
    write_result("attention", {"seconds": times, "peak_bytes": peaks, "folded_over_plain": slower}, markdown)


def _prepare(name: str, pixels: int, threads: int) -> Run:
    """One run of attention in this way, on seeded inputs."""
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys("qkv", (1, HEADS, pixels, WIDTH)) | dict.fromkeys("ab", (1, pixels, RANK))
    feeds = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = _model(name, feeds)
    graph = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    return partial(_first, session, taken)


def _first(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    output: NDArray[np.float32] = session.run(None, feeds)[0]
    return output


def _model(name: str, feeds: dict[str, NDArray[np.float32]]) -> ir.Model:
    kind = ir.TensorType(ir.DataType.FLOAT)
    values = {key: ir.Value(name=key, type=kind, shape=ir.Shape(each.shape)) for key, each in feeds.items()}
    q, k, v, a, b = values.values()
    nodes: Sequence[ir.Node]
    inputs, scale = [q, k, v], {"scale": WIDTH**-0.5}
    if name == PLAIN:
        nodes = [ir.node("Attention", inputs, attributes=scale)]
    elif name == FOLDED:
        inputs += [a, b]
        nodes = [ir.node("MaskedAttention", inputs, attributes=scale, domain=DOMAIN)]
    else:
        turned = ir.node("Transpose", [b], attributes={"perm": [0, 2, 1]})
        bias = ir.node("MatMul", [a, turned.outputs[0]])
        nodes = [turned, bias, ir.node("Attention", [*inputs, bias.outputs[0]], attributes=scale)]
        inputs += [a, b]
    output = nodes[-1].outputs[0]
    output.name, output.type, output.shape = "output", kind, q.shape
    graph = ir.Graph(inputs, [output], nodes=nodes, opset_imports={"": 23}, name="attention")
    model = ir.Model(graph, ir_version=10)
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
