"""The same refinement beside its peers: PyTorch as its best users run it, and plain exports in two runtimes.

    python -m benchmarks.peers                     writes benchmarks/results/peers.{json,md} and peers.png
    python -m benchmarks.peers --sizes demo        one size; the other's figures are kept

Everyone runs the default settings, and computes all passes: random weights know no label, and a real run would stop
early. One process each, the same threads, in turns. At the demo's size the processes live through all rounds. At the
size of Stable Diffusion 1.5 (random weights) memory has room for one at a time: each round starts them anew. The first
loop of each, in which some compile, is reported apart. Compiled PyTorch takes part at the demo's size alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.figures import plot_times
from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.peer_worker import BFLOAT, COMPILED, ORACLE, OURS, SESSIONS
from benchmarks.plain_export import export_plain
from benchmarks.report import RESULTS, markdown_table, read_result, write_result
from benchmarks.timing import REST, peak_gflops, sample_scenes
from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.export import export_bundle
from segrefine.export.quantize import quantize_bundle
from segrefine.export.quantize.recording import pick_evenly
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.imaging.metrics import iou

THREADS = 2
PEERS = (ORACLE, BFLOAT, COMPILED, *SESSIONS, *OURS)
OURS_FLOAT, OURS_INT8 = (
    tuple(name for name, way in OURS.items() if way.eight_bits == eight and way.preset == "default")
    for eight in (False, True)
)
OURS_FAST = tuple(name for name, way in OURS.items() if way.preset == "fast")
BEST_TORCH = (BFLOAT, COMPILED)
OTHERS = tuple(SESSIONS)
CONVINCED = {"worth_range": [-9.0, -8.0], "effect_range": [-2.0, -1.0], "likeness_range": [2.0, 3.0]}
"""The evidence of every label counts fully, so that no pass is left out."""
Times = dict[str, dict[str, list[float]]]
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A promise: the fastest of some contestants over the fastest of others.

    Attributes:
        title: in words.
        above: contestants above the line.
        below: contestants below it.
        bar: the least value, or the largest if `at_most`.
        what: "loop" or "step".
        at_most: whether the bar is the largest value.
    """

    title: str
    above: tuple[str, ...]
    below: tuple[str, ...]
    bar: float
    what: str = "loop"
    at_most: bool = False

    def measure(self, seconds: Times) -> float:
        """The ratio of medians."""
        above, below = (
            min(float(np.median(seconds[peer][self.what])) for peer in peers if peer in seconds)
            for peers in (self.above, self.below)
        )
        return above / below


_ALL_PEERS = (*BEST_TORCH, *OTHERS)
DEMO_RATIOS = (
    Ratio(title="best PyTorch ÷ segrefine", above=BEST_TORCH, below=(*OURS_FLOAT, *OURS_INT8), bar=5),
    Ratio(title="best other peer ÷ segrefine", above=OTHERS, below=(*OURS_FLOAT, *OURS_INT8), bar=2.5),
)
SD15_RATIOS = (
    Ratio(title="best PyTorch ÷ segrefine's `fast` in int8", above=BEST_TORCH, below=OURS_FAST, bar=8),
    Ratio(title="best PyTorch ÷ segrefine in int8", above=BEST_TORCH, below=OURS_INT8, bar=2),
    Ratio(title="best PyTorch ÷ segrefine in floats", above=BEST_TORCH, below=OURS_FLOAT, bar=1.3),
    Ratio(title="a pass: best peer ÷ segrefine in floats", above=_ALL_PEERS, below=OURS_FLOAT, bar=1.25, what="step"),
    Ratio(title="a pass: best peer ÷ segrefine in int8", above=_ALL_PEERS, below=OURS_INT8, bar=2, what="step"),
    Ratio(title="a pass: int8 ÷ floats", above=OURS_INT8, below=OURS_FLOAT, bar=0.65, what="step", at_most=True),
)


@dataclass(frozen=True, kw_only=True)
class PeerSize:
    """A model and a job.

    Attributes:
        checkpoint: what the peers take.
        bundle: what segrefine takes.
        int8: the same in eight bits.
        plain: folder of the plain export.
        side: of the image, in pixels.
        rounds: how often everyone takes a turn.
        steps: steps of the UNet in each turn.
        together: all processes live through all rounds.
        peers: the contestants.
        ratios: what is reported, see `RATIOS`.
    """

    checkpoint: Path
    bundle: Path
    int8: Path
    plain: Path
    side: int
    rounds: int
    steps: int
    together: bool
    peers: tuple[str, ...] = PEERS
    ratios: tuple[Ratio, ...]


class PeerWorker:
    """A contestant's process; a context."""

    def __init__(self, peer: str, size: PeerSize, mask: Path) -> None:
        job = {"peer": peer, "checkpoint": str(size.checkpoint), "bundle": str(size.bundle), "plain": str(size.plain),
               "int8": str(size.int8), "side": size.side, "settings": CONVINCED, "threads": THREADS,
               "mask": str(mask)}  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.peer_worker", json.dumps(job)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> PeerWorker:
        """Waits until it is ready."""
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def time(self, what: str) -> float:
        """Seconds that a "loop" or a "step" took."""
        assert self._process.stdin
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contestant ended with status {self._process.wait()}")
        return line.strip()


@click.command()
@click.option("--sizes", multiple=True, type=click.Choice(["demo", "sd15"]), default=("demo", "sd15"))
@click.option("--rounds", type=click.IntRange(1), help="Turns of everyone.  [default: 15 for demo, 2 for sd15]")
@click.option("--prepare", is_flag=True, help="Write and build the models alone.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def main(sizes: tuple[str, ...], rounds: int | None, prepare: bool, folder: Path) -> None:
    """Measure segrefine beside its peers."""
    torch.set_num_threads(THREADS)
    data = read_result("peers")
    for name in sizes:
        size = _demo(folder) if name == "demo" else _sd15(folder)
        if prepare:
            continue
        ratios = [{"title": each.title, "bar": each.bar, "at_most": each.at_most} for each in size.ratios]
        measured = _measure(replace(size, rounds=rounds or size.rounds))
        for told, ratio in zip(ratios, size.ratios, strict=True):
            told["measured"] = ratio.measure(measured["seconds"])
        products = {str(dtype).removeprefix("torch."): peak_gflops(dtype=dtype) for dtype in _DTYPES}
        data[name] = measured | {"ratios": ratios, "gflop": _gflop(size), "products": products}
    if prepare:
        return
    sections = [_section(data[name], TITLES[name]) for name in TITLES if name in data]
    markdown = "\n\n".join(["# segrefine beside its peers", "![time of each](peers.png)", *sections])
    click.echo(markdown)
    write_result("peers", data, markdown)
    measured = {title: data[name] for name, title in TITLES.items() if name in data}
    medians = {
        title: {peer: _median(each, peer, "loop") for peer in each["seconds"]} for title, each in measured.items()
    }
    plot_times(medians, RESULTS / "peers.png")


TITLES = {
    "demo": "The demo model, one 128×128 image",
    "sd15": "SD 1.5 in size, one 512×512 image",
}


def _demo(folder: Path) -> PeerSize:
    plain = folder / "demo-plain"
    export_plain(demo_checkpoint(), plain, Bundle.open(demo_bundle()).manifest.feature_taps)
    bundle = _built(demo_bundle(), folder / "demo-built")
    return PeerSize(
        checkpoint=demo_checkpoint(),
        bundle=bundle,
        int8=_quantized(bundle, folder / "demo-int8", 32),
        plain=plain,
        side=128,
        rounds=15,
        steps=1,
        together=True,
        ratios=DEMO_RATIOS,
    )


def _sd15(folder: Path) -> PeerSize:
    checkpoint, bundle, plain = (
        write_full_size("sd15", folder, torch.float32),
        folder / "sd15-bundle",
        folder / "sd15-plain",
    )
    if not bundle.exists():
        export_bundle(checkpoint, bundle)
    export_plain(checkpoint, plain, Bundle.open(bundle).manifest.feature_taps)
    int8 = _quantized(bundle, folder / "sd15-int8", 4)
    build_engine(bundle)
    return PeerSize(
        checkpoint=checkpoint,
        bundle=bundle,
        int8=int8,
        plain=plain,
        side=512,
        rounds=2,
        steps=2,
        together=False,
        peers=tuple(peer for peer in PEERS if peer != COMPILED),
        ratios=SD15_RATIOS,
    )


def _quantized(bundle: Path, target: Path, scenes: int) -> Path:
    """A bundle in eight bits, with built engines; done already, it is left as it is."""
    if not target.exists():
        quantize_bundle(bundle, target, pick_evenly(sample_scenes(), scenes), progress=click.echo)
        build_engine(target)
    return target


def _built(bundle: Path, target: Path) -> Path:
    """A copy of a bundle with built engines."""
    if not target.exists():
        shutil.copytree(bundle, target)
    build_engine(target)
    return target


def build_engine(bundle: Path) -> None:
    """Builds what segrefine's contestants load, as its users do."""
    for options in ([], ["--backend", "openvino"]):
        subprocess.run([sys.executable, "-m", "segrefine.cli", "build-engine", str(bundle), *options], check=True)


def _measure(size: PeerSize) -> dict[str, Any]:
    """Seconds of every turn by contestant, and the IoU of its mask with eager PyTorch's."""
    seconds: Times = {peer: {"first": [], "loop": [], "step": []} for peer in size.peers}
    with tempfile.TemporaryDirectory() as scratch:
        masks = {peer: Path(scratch) / f"{number}.npy" for number, peer in enumerate(size.peers)}
        with ExitStack() as stack:
            if size.together:
                workers = {peer: stack.enter_context(PeerWorker(peer, size, masks[peer])) for peer in size.peers}
                for peer in [*size.peers] * 2:
                    seconds[peer]["first"].append(workers[peer].time("loop"))
            for turn in range(size.rounds):
                for peer in tqdm(size.peers, desc=f"round {turn + 1} of {size.rounds}", leave=False):
                    if size.together:
                        _take_turn(workers[peer], size, seconds[peer])
                        continue
                    with PeerWorker(peer, size, masks[peer]) as worker:
                        seconds[peer]["first"].append(worker.time("loop"))
                        _take_turn(worker, size, seconds[peer])
        found = {peer: np.load(path) for peer, path in masks.items()}
    return {"seconds": seconds, "iou": {peer: iou(found[peer], found[ORACLE]) for peer in size.peers}}


def _gflop(size: PeerSize) -> float:
    """Return the GFLOP of one forward pass of the UNet, without the mask."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        configs = load_checkpoint(size.checkpoint).configs["unet"]
        unet, side = UNet2DConditionModel.from_config(configs), configs["sample_size"]
        states = torch.empty(1, 77, configs["cross_attention_dim"])
        unet(torch.empty(1, configs["in_channels"], side, side), torch.empty(1).long(), states)
    return float(counter.get_total_flops()) / 1e9


def _take_turn(worker: PeerWorker, size: PeerSize, seconds: dict[str, list[float]]) -> None:
    time.sleep(REST)
    seconds["loop"].append(worker.time("loop"))
    seconds["step"] += [worker.time("step") for _ in range(size.steps)]


def _median(measured: dict[str, Any], peer: str, what: str) -> float:
    return float(np.median(measured["seconds"][peer][what]))


def _section(measured: dict[str, Any], title: str) -> str:
    best = min(
        (peer for peer in BEST_TORCH if peer in measured["seconds"]), key=lambda peer: _median(measured, peer, "loop")
    )
    rows = []
    for peer in measured["seconds"]:
        row = [peer, f"{measured['seconds'][peer]['first'][0]:.3g}"]
        for what in ("loop", "step"):
            low, middle, high = np.quantile(measured["seconds"][peer][what], (0.25, 0.5, 0.75))
            row += [f"{middle:.3g} ({low:.3g}–{high:.3g})", f"{_median(measured, best, what) / middle:.2f}"]
        rows.append([*row, f"{measured['iou'][peer]:.4f}"])
    header = [
        "contestant",
        "first loop, s",
        "whole loop, s",
        "best PyTorch ÷ this",
        "UNet pass, s",
        "best PyTorch ÷ this",
        "IoU with float32",
    ]
    promises = [
        [each["title"], f"{'≤' if each['at_most'] else '≥'} {each['bar']:g}", f"{each['measured']:.2f}"]
        for each in measured["ratios"]
    ]
    shares = ", ".join(
        f"{measured['gflop'] / _median(measured, peer, 'step') / measured['products']['bfloat16']:.0%} by {peer}"
        for peer in (*OURS_FLOAT[1:], *OURS_INT8[1:], BFLOAT)
    )
    products = ", ".join(f"{value:.0f} in {name}" for name, value in measured["products"].items())
    return "\n\n".join([
        f"## {title}",
        markdown_table(["promise", "bar", "measured"], promises),
        markdown_table(header, rows),
        f"Medians and quartiles; {THREADS} threads; default settings with all passes, but for `fast`; whole loop "
        f"with the edge step. A pass is one of the UNet under a mask, batch 1, {measured['gflop']:.1f} GFLOP. "
        f"This machine's matrix product reaches {products} GFLOP/s. Share of the bf16 product in a pass: {shares}.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
