"""One contestant of `benchmarks.peers`, in a process of its own: does what the lines of its input ask for.

    python -m benchmarks.peer_worker '{"peer": …}'

It answers every line, `step` or `loop`, with the seconds that took; at the end of its input, with what the mask was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.plain_export import PlainG4Seg, open_onnxruntime, open_openvino
from benchmarks.timing import sample_scenes
from benchmarks.torch_peer import BFloatG4Seg, faster_attention
from segrefine.bundle import Bundle
from segrefine.engines import EnginePrecision
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import run_reference
from segrefine.presets import PRESETS
from segrefine.reference.attention import Attend, MaskInjection
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.reference.text import predict
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings

Run = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class OurWay:
    """A way in which segrefine runs.

    Attributes:
        backend: the engine.
        precision: what it computes in.
        eight_bits: whether the bundle is quantized.
        preset: the settings.
    """

    backend: str = "openvino"
    precision: EnginePrecision = "bf16"
    eight_bits: bool = False
    preset: str = "default"


ORACLE, BFLOAT, COMPILED = "PyTorch, float32", "PyTorch, bf16", "PyTorch, bf16, compiled"
OURS = {
    "segrefine": OurWay(backend="onnxruntime", precision="fp32"),
    "segrefine, OpenVINO bf16": OurWay(),
    "segrefine, int8": OurWay(backend="onnxruntime", precision="fp32", eight_bits=True),
    "segrefine, OpenVINO int8": OurWay(eight_bits=True),
    "segrefine, int8, fast": OurWay(backend="onnxruntime", precision="fp32", eight_bits=True, preset="fast"),
    "segrefine, OpenVINO int8, fast": OurWay(eight_bits=True, preset="fast"),
}
SESSIONS = {"ONNX Runtime, plain export": open_onnxruntime, "OpenVINO, plain export": open_openvino}


def main() -> None:
    """Opens the contestant and serves."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    loop, step = _open(job)
    print("ready", flush=True)
    mask = np.zeros(0, np.bool_)
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == "loop":
            mask = loop()
        else:
            step()
        print(time.perf_counter() - began, flush=True)
    np.save(job["mask"], mask)


def _open(job: dict[str, Any]) -> tuple[Run, Run]:
    """The whole refinement of one scene, giving its mask, and one step of the UNet under a mask, batch 1."""
    scene = _scene(job["side"])
    bundle, checkpoint, threads = Path(job["bundle"]), Path(job["checkpoint"]), job["threads"]
    peer = job["peer"]
    refiner = Refiner(Bundle.open(bundle), {})  # only its image and mask work serves a peer
    known = refiner.settings.to_dict() | job["settings"]
    settings, feeds = G4SegSettings.from_dict(known), _step_inputs(refiner)
    if peer in OURS:
        way = OURS[peer]
        settings = G4SegSettings.from_dict(known | PRESETS["g4seg"][way.preset])
        folder = Path(job["int8"]) if way.eight_bits else bundle
        refiner = Refiner.from_bundle(
            folder, backend=way.backend, precision=way.precision, threads=threads, settings=settings
        )
        engine = refiner.engines["unet"]
        run = partial(refiner, scene.image, scene.coarse, scene.label, crop=False, guard=False)
        return lambda: run().mask, partial(engine, feeds, only="out_sample")
    taps = refiner.bundle.manifest.feature_taps
    if peer in SESSIONS:
        opened = partial(SESSIONS[peer], threads=threads)
        plain = PlainG4Seg(checkpoint, Path(job["plain"]), settings, taps, opened)
        return lambda: run_reference(refiner, plain, scene)[1], partial(plain.sessions["unet"], feeds)
    if peer == ORACLE:
        g4seg = G4Seg(load_checkpoint(checkpoint), settings, taps)
    else:
        g4seg = _open_bfloat(checkpoint, settings, taps, feeds)
    if peer == COMPILED:
        torch._inductor.config.freezing = True
        g4seg.model.unet.compile(mode="max-autotune")
    return lambda: run_reference(refiner, g4seg, scene)[1], partial(_torch_step, g4seg, feeds)


def _open_bfloat(checkpoint: Path, settings: G4SegSettings, taps: tuple[str, ...], feeds: Mapping[str, Any]) -> G4Seg:
    """PyTorch in bfloat16, with the faster of two ways to bias attention."""

    def open_step(attend: Attend) -> Run:
        return partial(_torch_step, BFloatG4Seg(checkpoint, settings, taps, attend), feeds)

    chosen = faster_attention(open_step)
    print(f"attention: {chosen.__name__}", file=sys.stderr)
    return BFloatG4Seg(checkpoint, settings, taps, chosen)


def _scene(side: int) -> ParityScene:
    """The first shipped scene, its longer side `side` pixels."""
    scene = sample_scenes()[0]
    image = Image.fromarray(scene.image).resize((side, side), Image.Resampling.BICUBIC)
    coarse = Image.fromarray(scene.coarse).resize((side, side), Image.Resampling.BILINEAR)
    return ParityScene(image=np.asarray(image), coarse=np.asarray(coarse).clip(0, 1), label=scene.label)


def _step_inputs(refiner: Refiner) -> dict[str, Any]:
    spec, side = refiner.bundle.manifest.components["unet"], refiner.bundle.manifest.sample_size
    sizes = {"batch": 1, "height": side, "width": side, "tokens": refiner.bundle.manifest.tokens}
    rng = np.random.default_rng(0)
    feeds = {}
    for tensor in spec.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        values = np.full(shape, 300) if tensor.dtype == "int64" else rng.uniform(0, 1, shape)
        feeds[tensor.name] = values.astype(tensor.dtype)
    return feeds


@torch.no_grad()
def _torch_step(g4seg: G4Seg, feeds: Mapping[str, Any]) -> None:
    inputs = {name: torch.from_numpy(values) for name, values in feeds.items()}
    names = ("foreground", "token_indicator", "strength")
    with g4seg.injector.apply(MaskInjection(**{name: inputs[name] for name in names})):
        text = {"encoder_hidden_states": inputs["encoder_hidden_states"]}
        predict(g4seg.model.unet, inputs["sample"], inputs["timestep"], text)


if __name__ == "__main__":
    main()
