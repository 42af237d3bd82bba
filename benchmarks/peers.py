"""The same refinement beside what else could run it: PyTorch, torch.compile, and plain exports in two runtimes.

    python -m benchmarks.peers                     writes benchmarks/results/peers.{json,md} and peers.png
    python -m benchmarks.peers --sizes demo        one size; the other's figures are kept

One process each, the same threads, in turns. At the demo's size the processes live through all rounds; at the size of
Stable Diffusion 1.5 (random weights) memory has room for one at a time, so that each round starts them anew and lets
each run a step before it is measured. torch.compile takes part at the demo's size alone: to compile a UNet of full size
for every batch and kind of call takes longer than all the rest together.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from benchmarks.peer_worker import COMPILED, OURS, SESSIONS
from benchmarks.plain_export import export_plain
from benchmarks.report import RESULTS, markdown_table, read_result, write_result
from benchmarks.timing import REST, peak_gflops
from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.export import export_bundle
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.imaging.metrics import iou

EAGER, THREADS = "PyTorch eager", 2
PEERS = (EAGER, COMPILED, *SESSIONS, *OURS)
Times = dict[str, dict[str, list[float]]]


@dataclass(frozen=True, kw_only=True)
class PeerSize:
    """A model and a job.

    Attributes:
            checkpoint: what the peers take.
        bundle: what segrefine takes.
        plain: folder of the plain export.
        side: of the image, in pixels.
        settings: other settings than the bundle's, for everyone.
        rounds: how often everyone takes a turn.
        steps: steps of the UNet in each turn.
        together: all processes live through all rounds.
        peers: the contestants.
        bars: least eager ÷ ours, and least best peer ÷ ours.
    """

    checkpoint: Path
    bundle: Path
    plain: Path
    side: int
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: int
    steps: int
    together: bool
    peers: tuple[str, ...] = PEERS
    bars: tuple[float, float]


class PeerWorker:
    """A contestant's process; a context."""

    def __init__(self, peer: str, size: PeerSize, mask: Path) -> None:
        job = {"peer": peer, "checkpoint": str(size.checkpoint), "bundle": str(size.bundle), "plain": str(size.plain),
               "side": size.side, "settings": size.settings, "threads": THREADS, "mask": str(mask)}  # fmt: skip
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
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
def main(sizes: tuple[str, ...], folder: Path) -> None:
    """Measure segrefine beside its peers."""
    torch.set_num_threads(THREADS)
    data = read_result("peers")
    for name in sizes:
        size = _demo(folder) if name == "demo" else _sd15(folder)
        described = {"bars": size.bars, "settings": size.settings, "gflop": _gflop(size)}
        data[name] = _measure(size) | described | {"peak_gflops": peak_gflops()}
    sections = [_section(data[name], TITLES[name]) for name in TITLES if name in data]
    markdown = "\n\n".join(["# segrefine beside its peers", "![time of each](peers.png)", *sections])
    click.echo(markdown)
    write_result("peers", data | _ratios(data), markdown)
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
    return PeerSize(
        checkpoint=demo_checkpoint(),
        bundle=_built(demo_bundle(), folder / "demo-built"),
        plain=plain,
        side=128,
        rounds=15,
        steps=1,
        together=True,
        bars=(4.0, 1.3),
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
    build_engine(bundle)
    return PeerSize(
        checkpoint=checkpoint,
        bundle=bundle,
        plain=plain,
        side=512,
        settings={"noises": 1, "text_strengths": [6.0]},
        rounds=2,
        steps=2,
        together=False,
        peers=tuple(peer for peer in PEERS if peer != COMPILED),
        bars=(2.0, 1.3),
    )


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
    seconds: Times = {peer: {"loop": [], "step": []} for peer in size.peers}
    with tempfile.TemporaryDirectory() as scratch:
        masks = {peer: Path(scratch) / f"{number}.npy" for number, peer in enumerate(size.peers)}
        with ExitStack() as stack:
            if size.together:
                workers = {peer: stack.enter_context(PeerWorker(peer, size, masks[peer])) for peer in size.peers}
                for _ in range(2):
                    for worker in workers.values():
                        worker.time("loop")
            for turn in range(size.rounds):
                for peer in tqdm(size.peers, desc=f"round {turn + 1} of {size.rounds}", leave=False):
                    if size.together:
                        _take_turn(workers[peer], size, seconds[peer])
                        continue
                    with PeerWorker(peer, size, masks[peer]) as worker:
                        worker.time("step")
                        _take_turn(worker, size, seconds[peer])
        found = {peer: np.load(path) for peer, path in masks.items()}
    return {"seconds": seconds, "iou": {peer: iou(found[peer], found[EAGER]) for peer in size.peers}}


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


def _ratios(data: dict[str, Any]) -> dict[str, float]:
    """Eager and the best peer, over the fastest of ours, whole loop, by size."""
    ratios = {}
    for name, measured in data.items():
        if name in TITLES:
            loops = {peer: _median(measured, peer, "loop") for peer in measured["seconds"]}
            fastest = min(loops[peer] for peer in OURS)
            ratios[f"{name}_eager"] = loops[EAGER] / fastest
            ratios[f"{name}_best_peer"] = min(loops[peer] for peer in loops if peer not in OURS) / fastest
    return ratios


def _section(measured: dict[str, Any], title: str) -> str:
    rows, eager = [], {what: _median(measured, EAGER, what) for what in ("loop", "step")}
    for peer in measured["seconds"]:
        row = [peer]
        for what in ("loop", "step"):
            low, middle, high = np.quantile(measured["seconds"][peer][what], (0.25, 0.5, 0.75))
            row += [f"{middle:.3g} ({low:.3g}–{high:.3g})", f"{eager[what] / middle:.2f}"]
        rows.append([*row, f"{measured['iou'][peer]:.4f}"])
    ours, bars = _ratios({"demo": measured}), measured["bars"]
    share = measured["gflop"] / min(_median(measured, peer, "step") for peer in OURS) / measured["peak_gflops"]
    header = ["contestant", "whole loop, s", "eager ÷ this", "UNet step, s", "eager ÷ this", "IoU with eager's mask"]
    parts = [
        f"## {title}",
        f"**Eager ÷ segrefine's fastest = {ours['demo_eager']:.2f}** (bar: {bars[0]:g}); **best peer ÷ segrefine's "
        f"fastest = {ours['demo_best_peer']:.2f}** (bar: {bars[1]:g}).",
        markdown_table(header, rows),
        f"Medians and quartiles; {THREADS} threads; whole loop with the edge step; settings: "
        f"{measured['settings'] or 'as they come'}. A step is one forward pass of the UNet under a mask, batch 1, "
        f"{measured['gflop']:.1f} GFLOP; ours takes {share:.0%} of this machine's float32 matrix product "
        f"({measured['peak_gflops']:.0f} GFLOP/s).",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
