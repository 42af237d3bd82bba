"""Bundle → bundle with an eight-bit denoiser, if the masks stay the same; and with eight-bit encoders where it pays."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle, BundleWriter
from segrefine.engines import choose_backend, load_engine
from segrefine.engines.backends import QUANTIZER
from segrefine.engines.engine import Feeds
from segrefine.errors import ExportError
from segrefine.export.comparison import ParityScene
from segrefine.export.quantize.graphs import FloatGraph, prepare_graph, quantize_graph, rank_nodes
from segrefine.export.quantize.recording import Recording, pick_evenly, single_samples
from segrefine.export.quantize.scenes import split_scenes
from segrefine.export.storage import WeightFile
from segrefine.runtime.engine_set import EngineSet
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from segrefine.storage import staging_folder

LEAST_IOU = 0.99
"""Mean IoU of the masks with those of float32 below which a quantized model is refused."""
_SHARES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the operators that stay in float32, tried one after another."""
_DENOISERS = {"g4seg": ("unet", "unet_features", "unet_attention"), "gs": ("label_denoiser",)}
"""The components that are quantized, by method; the first has the tensors of the others."""
_ENCODERS = ("vae_encoder", "text_encoder", "text_encoder_2")
"""Components that are quantized where that pays, and leaves the masks as they are."""
_MOST_TIME, _MOST_LOSS = 0.9, 0.001
"""Most time of a pass in int8, in units of that in float32, and most mean IoU that an encoder in int8 may cost."""
_MOST_IMAGES = 8
"""Samples on which the ranges of an encoder are measured, at most: its tensors are large."""
_PASSES = 5
"""Passes that are timed."""

Tell = Callable[[str], None]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A quantized bundle, and how its masks compare with those of float32.

    Attributes:
        bundle: the bundle.
        left_out: operators that stayed in float32.
        ious: with each mask of float32.
    """

    bundle: Bundle
    left_out: tuple[str, ...]
    ious: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean IoU."""
        return float(np.mean(self.ious))

    @property
    def is_good(self) -> bool:
        """Return whether the masks are those of float32, but for single pixels."""
        return self.mean >= LEAST_IOU

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "scheme": "int8",
            "left_out": list(self.left_out),
            "masks": len(self.ious),
            "iou": round(self.mean, 5),
            "least_iou": round(min(self.ious), 5),
        }


def quantize_bundle(
    source: str | Path,
    target: str | Path,
    scenes: Sequence[ParityScene],
    *,
    overwrite: bool = False,
    progress: Tell = lambda message: None,
) -> Bundle:
    """Write a bundle again with its denoiser in eight bits.

    Half of the scenes give the ranges of its tensors, as the loop itself computes them. The other half judge it: where
    the masks differ from those of float32, the operators that lose most stay in float32, up to half of them. An encoder
    is quantized too, if that saves time and costs no IoU.

    Args:
        source: a float32 bundle.
        target: folder of the new one.
        scenes: images with masks like those that the model will see.
        overwrite: replace a bundle that is there already.
        progress: called with a line about each step.

    Raises:
        BundleError: `source` is no bundle.
        ExportError: it is quantized already, or not in float32; the scenes are too few; or the masks differ from those
            of float32 whatever is left out.
        OutputError: the target is taken or cannot be written.
    """
    bundle = Bundle.open(source)
    _check_source(bundle)
    names = [name for name in _DENOISERS[bundle.manifest.method] if name in bundle.manifest.graphs]
    with BundleWriter(target, overwrite=overwrite) as writer, staging_folder(writer.path) as folder:
        measured, judged = split_scenes(scenes)
        progress(f"running the loop on {len(measured)} scenes")
        encoders = [name for name in _ENCODERS if name in bundle.manifest.graphs]
        recorded = _record(bundle, measured, [*names, *encoders])
        work = _Work(bundle=bundle, scenes=judged, masks=_find_masks(bundle, judged), folder=folder, progress=progress)
        denoiser = work.prepare(names, single_samples([feeds for name in names for feeds in recorded[name]]))
        trial = _first_good(work, denoiser)
        quantized = dict.fromkeys(names, trial.describe() | {"time": work.compare_time(trial.bundle, denoiser)})
        for name in encoders:
            encoder = work.prepare([name], pick_evenly(single_samples(recorded[name]), _MOST_IMAGES))
            if better := _try_encoder(work, trial, encoder):
                trial, share = better
                quantized[name] = trial.describe() | {"time": share}
        _copy_files(trial.bundle, writer.directory)
        return writer.finish(replace(trial.bundle.manifest, quantized=quantized))


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Graphs in float32 of the same weights.

    Attributes:
        graphs: by component; the first has the tensors of the others.
        ranges: of the tensors.
        sample: inputs of the first one.
    """

    graphs: Mapping[str, FloatGraph]
    ranges: Any
    sample: Feeds

    @property
    def name(self) -> str:
        """Return the first component."""
        return next(iter(self.graphs))

    @property
    def base(self) -> FloatGraph:
        """Return its graph."""
        return self.graphs[self.name]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A float32 bundle that is being quantized, with the masks that the result must give.

    Attributes:
        bundle: the bundle.
        scenes: images with coarse masks.
        masks: what the bundle makes of them.
        folder: for graphs and trials.
        progress: called with a line about each step.
    """

    bundle: Bundle
    scenes: Sequence[ParityScene]
    masks: Masks
    folder: Path
    progress: Tell

    def prepare(self, names: Sequence[str], samples: Sequence[Feeds]) -> _Group:
        """Measure the ranges of some graphs of the same weights."""
        self.progress(f"measuring ranges of {names[0]}")
        folder = self.folder / f"{names[0]}-float"
        folder.mkdir()
        weights = WeightFile(folder / "float.onnx_data")
        graphs = {name: prepare_graph(self.bundle.graph(name), weights) for name in names}
        ranges = QUANTIZER.measure_ranges(graphs[names[0]].path, samples)
        return _Group(graphs=graphs, ranges=ranges, sample=samples[len(samples) // 2])

    def write(self, base: Bundle, group: _Group, left_out: Sequence[str] = ()) -> Bundle:
        """Write a bundle again with some graphs quantized.

        Args:
            base: what the other graphs are taken from.
            group: the graphs.
            left_out: operators that stay in float32.
        """
        manifest = base.manifest
        with BundleWriter(self.folder / group.name, overwrite=True) as writer:
            folders = {Path(manifest.graphs[name]).parent for name in group.graphs}
            _copy_files(base, writer.directory, lambda path: path.parent not in folders)
            stores: dict[Path, WeightFile] = {}
            for name, graph in group.graphs.items():
                path = writer.directory / manifest.graphs[name]
                path.parent.mkdir(exist_ok=True)
                weights = stores.setdefault(path.parent, WeightFile(path.with_name("model.onnx_data")))
                quantize_graph(graph, group.ranges, weights, path, left_out)
            return writer.finish(manifest)

    def judge(self, bundle: Bundle, left_out: tuple[str, ...] = ()) -> _Trial:
        """Compare the masks of a quantized bundle with those of float32."""
        pairs = zip(_find_masks(bundle, self.scenes), self.masks, strict=True)
        return _Trial(bundle=bundle, left_out=left_out, ious=tuple(iou(ours, theirs) for ours, theirs in pairs))

    def compare_time(self, bundle: Bundle, group: _Group) -> float:
        """The time of a pass in a quantized bundle, in units of that in float32."""
        seconds = [_time_pass(each, group.name, group.sample) for each in (bundle, self.bundle)]
        return round(seconds[0] / seconds[1], 3)


def _check_source(bundle: Bundle) -> None:
    if bundle.manifest.quantized:
        raise ExportError("it is quantized already", subject=bundle.path, hint="quantize the float32 bundle")
    if bundle.manifest.dtype != "fp32":
        raise ExportError(
            subject=bundle.path,
            expected="a bundle in fp32",
            got=bundle.manifest.dtype,
            hint="export it with --dtype fp32",
        )


def _first_good(work: _Work, group: _Group) -> _Trial:
    """The first quantized bundle whose masks are those of float32.

    Raises:
        ExportError: there is none.
    """
    base, ranked = group.base, list[str]()
    for share in _SHARES:
        left_out = tuple(ranked[: round(share * len(base.nodes))])
        kept = f", {len(left_out)} of {len(base.nodes)} operators in float32" if left_out else ""
        work.progress(f"quantizing {group.name}{kept}")
        trial = work.judge(work.write(work.bundle, group, left_out), left_out)
        if trial.is_good:
            return trial
        ranked = ranked or rank_nodes(base, group.sample)
    raise ExportError(
        subject="the masks of the quantized model",
        expected=f"a mean IoU with those of float32 of {LEAST_IOU} or more",
        got=f"{trial.mean:.4f} with {len(left_out)} of {len(base.nodes)} operators left in float32",
        hint=f"give more scenes, or keep float32; the operators that lose most: {', '.join(ranked[:5])}",
    )


def _try_encoder(work: _Work, before: _Trial, encoder: _Group) -> tuple[_Trial, float] | None:
    """The bundle with an encoder quantized too, and its share of time; None if that saves little or changes masks."""
    work.progress(f"quantizing {encoder.name}")
    bundle = work.write(before.bundle, encoder)
    share = work.compare_time(bundle, encoder)
    if share > _MOST_TIME:
        work.progress(f"{encoder.name} stays in float32: int8 takes {share:.2f} of its time")
        return None
    trial = work.judge(bundle)
    if not trial.is_good or trial.mean < before.mean - _MOST_LOSS:
        change = f"{before.mean:.4f} to {trial.mean:.4f}"
        work.progress(f"{encoder.name} stays in float32: the masks' mean IoU changes from {change}")
        return None
    return trial, share


def _open(bundle: Bundle) -> EngineSet[Any]:
    kind = Refiner if bundle.manifest.method == "g4seg" else Segmenter
    return kind.from_bundle(bundle.path)


def _record(bundle: Bundle, scenes: Sequence[ParityScene], names: Sequence[str]) -> dict[str, list[Feeds]]:
    """The inputs that the loop gives some components on some scenes."""
    with _open(bundle) as pipeline:
        watched = {name: Recording(engine) for name, engine in pipeline.engines.items() if name in names}
        recorded = pipeline.derive({**pipeline.engines, **watched})
        for scene in scenes:
            _mask_of(recorded, scene)
        return {name: watched[name].feeds if name in watched else [] for name in names}


def _find_masks(bundle: Bundle, scenes: Sequence[ParityScene]) -> Masks:
    with _open(bundle) as pipeline:
        return [_mask_of(pipeline, scene) for scene in scenes]


def _mask_of(pipeline: EngineSet[Any], scene: ParityScene) -> NDArray[np.bool_]:
    """The mask before the guard, whose threshold can turn a hair's breadth into another mask."""
    if isinstance(pipeline, Refiner):
        return pipeline(scene.image, scene.coarse, scene.label, guard=False).mask
    assert isinstance(pipeline, Segmenter)
    return pipeline(scene.image, [f"the {scene.label}"]).segments[0].mask


def _time_pass(bundle: Bundle, component: str, feeds: Feeds) -> float:
    """The shortest of some passes, in seconds."""
    with load_engine(bundle, component, choose_backend("auto", bundle.path, "cpu", None)) as engine:
        engine(feeds)
        seconds = []
        for _ in range(_PASSES):
            began = time.perf_counter()
            engine(feeds)
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def _copy_files(bundle: Bundle, target: Path, wanted: Callable[[Path], bool] = lambda path: True) -> None:
    """Copy a bundle's files but for the manifest and built engines; `wanted` gets paths relative to the bundle."""
    for relative in bundle.manifest.files:
        if wanted(Path(relative)):
            file = target / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(relative), file)
