"""Eight bits against float32: masks, quality, size, and time of a pass, of the models that ship.

    python -m benchmarks.quantized VOC-COARSE VOC

`demo` refines spoilt masks of held-out emoji scenes. VOC-COARSE holds images/, coarse/ and masks/ with coarse masks of
a real network: `photo` refines them, and spoilt true masks of the same photographs. VOC holds images/ and masks/:
`photo-gs` finds their classes. Ranges are measured on the samples that ship. The photographs are not part
of the project.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.evaluate import CorruptedCase
from benchmarks.photographs import Photograph, read_photographs
from benchmarks.quality import TEST_SEED, cases_of
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import ENGINES, take_turns
from segrefine.assets import PHOTO_LABELS, demo_bundle, demo_samples, photo_bundle, photo_gs_bundle, photo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import Sample, load_samples
from segrefine.engines import load_engine
from segrefine.engines.engine import Feeds
from segrefine.export.comparison import ParityScene
from segrefine.export.quantize import quantize_bundle
from segrefine.export.quantize.recording import Recording
from segrefine.runtime.guard import guard_changes
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.segmenter import Segmenter
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

Mask = NDArray[np.bool_]
PASSES = 30
CACHE = Path.home() / ".cache/segrefine/demo"
"""Where `make train-demo` keeps the sprites."""


@click.command()
@click.argument("coarse", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("photographs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=60, show_default=True, help="Photographs of each.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(coarse: Path, photographs: Path, images: int, threads: int) -> None:
    """Quantize each model, and compare it with float32."""
    emoji = [
        Photograph(number=each.scene, image=each.image, coarse=each.coarse, truth=each.truth,
                   void=np.zeros_like(each.truth), label=each.label, kind=each.kind)
        for each in _emoji_cases(images)
    ]  # fmt: skip
    masks = [each for real in (True, False) for each in read_photographs(coarse, images, coarse=real, kinds=1)]
    every = read_photographs(photographs, images, coarse=False, kinds=1)
    shown, drawn = (list(load_samples(folder).values()) for folder in (photo_samples(), demo_samples()))
    rows, values = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, bundle, samples, cases in (
            ("demo", demo_bundle(), drawn, emoji),
            ("photo", photo_bundle(), shown, [each for each in masks if each.label in PHOTO_LABELS]),
            ("photo-gs", photo_gs_bundle(), shown, [each for each in every if each.label in PHOTO_LABELS]),
        ):
            int8 = Path(scratch) / name
            told = quantize_bundle(bundle, int8, _scenes(samples), progress=click.echo).manifest.quantized
            values[name] = compare(bundle, int8, cases, threads) | {"export": dict(told)}
            click.echo(values[name])
    for name, found in values.items():
        rows.append([
            name, found["masks"], f"{found['iou']:.4f}", f"{found['least_iou']:.4f}",
            *(f"{found[key]:.4f}" if key in found else "" for key in ("guarded", "paper")),
            f"{found['quality']['float32']:.4f}", f"{found['quality']['int8']:.4f}", f"{found['size']:.2f}",
            *(f"{found['time'][engine]:.2f}" for engine in ENGINES),
        ])  # fmt: skip
    header = ["model", "masks", "IoU, mean", "least", "after the guard", "`paper`", "IoU with the truth, float32",
              "int8", "size ÷ float32", *(f"time ÷ float32, {engine}" for engine in ENGINES)]  # fmt: skip
    markdown = "\n\n".join(
        [
            "# Eight bits",
            "Int8 against float32: `demo` on held-out emoji scenes, the others on photographs of classes that they "
            "know. Ranges were measured on the samples that ship. IoU: of int8 masks with those of float32, before the "
            "guard. `paper` is the preset, in which every mask depends on the denoiser. Size: bytes of the denoiser's "
            "files, where float32 takes four for each weight. Time: medians of "
            f"{PASSES} passes of it, taken in turns, {threads} threads.",
            markdown_table(header, rows),
        ]
    )
    click.echo(markdown)
    write_result("quantized", values, markdown)


def compare(float32: Path, int8: Path, cases: Sequence[Photograph], threads: int) -> dict[str, Any]:
    """Masks, quality, size and time of a model in int8 beside itself in float32."""
    refines = "unet" in {path.name for path in float32.iterdir()}
    kind: type[Refiner] | type[Segmenter] = Refiner if refines else Segmenter
    masks, guarded, paper = {}, {}, {}
    for key, bundle in {"float32": float32, "int8": int8}.items():
        with kind.from_bundle(bundle, backend="onnxruntime", threads=threads) as pipeline:
            if isinstance(pipeline, Segmenter):
                masks[key] = [_find(pipeline, case) for case in tqdm(cases, desc=f"{bundle.name} {key}")]
                continue
            results = [_refine(pipeline, case) for case in tqdm(cases, desc=f"{bundle.name} {key}")]
            masks[key] = [each.mask for each in results]
            pairs = zip(cases, results, strict=True)
            guarded[key] = [guard_changes(case.image, each, pipeline.guard).mask for case, each in pairs]
            as_paper = pipeline.derive(settings="paper")
            paper[key] = [_find(as_paper, case) for case in tqdm(cases, desc="preset paper")]
    ious = _ious(masks)
    shown = guarded or masks
    folder, component = ("unet", "unet") if refines else ("label_denoiser", "label_denoiser")
    size = (int8 / folder / "model.onnx_data").stat().st_size
    return {
        "masks": len(cases),
        "iou": float(np.mean(ious)),
        "least_iou": min(ious),
        **({"guarded": float(np.mean(_ious(guarded))), "paper": float(np.mean(_ious(paper)))} if refines else {}),
        "quality": {
            key: float(np.mean([case.iou(mask) for case, mask in zip(cases, found, strict=True)]))
            for key, found in shown.items()
        },
        "size": size / (4 * count_weights(float32 / folder / "model.onnx")),
        "time": {engine: time_passes(float32, int8, component, engine, threads, cases[0]) for engine in ENGINES},
    }


def count_weights(graph: Path) -> int:
    """The number of weights of a graph."""
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(graph, load_external_data=False).graph.initializer)


def time_passes(float32: Path, int8: Path, component: str, name: str, threads: int, case: Photograph) -> float:
    """Time of a pass in int8, in units of that in float32 on the same engine."""
    backend, precision = ENGINES[name]
    with ExitStack() as stack:
        feeds = _record(float32, component, case)
        calls: dict[str, Callable[[], object]] = {}
        for key, bundle in {"float32": float32, "int8": int8}.items():
            engine = load_engine(Bundle.open(bundle), component, backend, precision=precision, threads=threads)
            calls[key] = partial(stack.enter_context(engine), feeds)
        seconds = {key: float(np.median(values)) for key, values in take_turns(calls, PASSES).items()}
    return seconds["int8"] / seconds["float32"]


def _record(bundle: Path, component: str, case: Photograph) -> Feeds:
    """The first inputs that the loop gives the denoiser."""
    with (Refiner if component == "unet" else Segmenter).from_bundle(bundle, threads=1) as pipeline:
        recording = Recording(pipeline.engines[component])
        _find(pipeline.derive({**pipeline.engines, component: recording}), case)
        return recording.feeds[0]


def _find(pipeline: Refiner | Segmenter, case: Photograph) -> Mask:
    """The mask before the guard."""
    if isinstance(pipeline, Refiner):
        return _refine(pipeline, case).mask
    return pipeline(case.image, [f"the {case.label}"]).segments[0].mask


def _refine(refiner: Refiner, case: Photograph) -> Refinement:
    return refiner(case.image, case.coarse, case.label, crop=False, guard=False)


def _ious(masks: dict[str, list[Mask]]) -> list[float]:
    return [iou(ours, theirs) for ours, theirs in zip(masks["int8"], masks["float32"], strict=True)]


def _emoji_cases(count: int) -> list[CorruptedCase]:
    """Spoilt masks of held-out scenes, `count` of them."""
    sources = load_sources(CACHE, held_out=True)
    scenes = ((compose_scene(np.random.default_rng(number), sources), number) for number in itertools.count(TEST_SEED))
    return list(itertools.islice(itertools.chain.from_iterable(itertools.starmap(cases_of, scenes)), count))


def _scenes(samples: Sequence[Sample]) -> list[ParityScene]:
    return [ParityScene(image=each.image, coarse=each.coarse, label=each.label) for each in samples]


if __name__ == "__main__":
    main()
