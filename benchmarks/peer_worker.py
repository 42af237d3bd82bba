"""One contestant of `benchmarks.peers`, in a process of its own: does what the lines of its input ask for.

    python -m benchmarks.peer_worker '{"peer": …}'

It answers every line, `step` or `loop`, with the seconds that took; at the end of its input, with what the mask was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.plain_export import PlainG4Seg, open_onnxruntime, open_openvino
from benchmarks.timing import sample_scenes
from segrefine.bundle import Bundle
from segrefine.engines import EnginePrecision
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import run_reference
from segrefine.reference.attention import MaskInjection
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.reference.text import predict
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings

Run = Callable[[], Any]
OURS: dict[str, tuple[str, EnginePrecision]] = {
    "segrefine": ("onnxruntime", "fp32"),
    "segrefine, OpenVINO bf16": ("openvino", "bf16"),
}
SESSIONS = {"ONNX Runtime, plain export": open_onnxruntime, "OpenVINO, plain export": open_openvino}
COMPILED = "torch.compile"


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
    settings = G4SegSettings.from_dict(refiner.settings.to_dict() | job["settings"])
    feeds = _step_inputs(refiner)
    if peer in OURS:
        backend, precision = OURS[peer]
        refiner = Refiner.from_bundle(bundle, backend=backend, precision=precision, threads=threads, settings=settings)
        engine = refiner.engines["unet"]
        run = partial(refiner, scene.image, scene.coarse, scene.label, crop=False, guard=False)
        return lambda: run().mask, partial(engine, feeds, only="out_sample")
    taps = refiner.bundle.manifest.feature_taps
    if peer in SESSIONS:
        opened = partial(SESSIONS[peer], threads=threads)
        plain = PlainG4Seg(checkpoint, Path(job["plain"]), settings, taps, opened)
        return lambda: run_reference(refiner, plain, scene)[1], partial(plain.sessions["unet"], feeds)
    eager = G4Seg(load_checkpoint(checkpoint), settings, taps)
    if peer == COMPILED:
        eager.model.unet.compile()
    return lambda: run_reference(refiner, eager, scene)[1], partial(_torch_step, eager, feeds)


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
def _torch_step(g4seg: G4Seg, feeds: dict[str, Any]) -> None:
    inputs = {name: torch.from_numpy(values) for name, values in feeds.items()}
    names = ("foreground", "token_indicator", "strength")
    with g4seg.injector.apply(MaskInjection(**{name: inputs[name] for name in names})):
        text = {"encoder_hidden_states": inputs["encoder_hidden_states"]}
        predict(g4seg.model.unet, inputs["sample"], inputs["timestep"], text)


if __name__ == "__main__":
    main()
