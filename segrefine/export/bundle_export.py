"""Checkpoint → bundle: every part exported, checked, and written beside what the runtime reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
from diffusers import UNet2DConditionModel

from segrefine import __version__
from segrefine.assets import DEMO_CHECKPOINTS
from segrefine.bundle import Bundle, BundleWriter, Manifest, Method, Precision
from segrefine.errors import ExportError
from segrefine.export.functions import attach_functions
from segrefine.export.graph import example_inputs, export_graph, half_precision
from segrefine.export.modules import GRAPHS, LABEL_GRAPHS, GraphModule, Source
from segrefine.export.ops import masked_attention
from segrefine.export.storage import WeightFile, halve_weights
from segrefine.export.verify import verify_graph
from segrefine.reference.attention import inject_masks
from segrefine.reference.checkpoint import Parts, is_label_checkpoint, load_checkpoint, load_label_checkpoint
from segrefine.reference.label_codec import VaeCodec, describe_codec
from segrefine.settings import G4SegSettings, GsSettings, Settings

DEFAULT_TAPS = ("up_blocks.1.attentions.0",)
TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}
_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What becomes of a checkpoint.

    Attributes:
        method: of the bundle.
        checkpoint: the model.
        denoiser: its denoiser.
        graphs: what makes each component.
        unneeded: components that are exported only when asked for.
        settings: default settings of the method.
        taps: named submodules of the UNet whose outputs are the features.
        label_codec: see `Manifest`.
    """

    method: Method
    checkpoint: Parts
    denoiser: UNet2DConditionModel
    graphs: Mapping[str, Callable[[], GraphModule]]
    settings: Settings
    unneeded: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    label_codec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """How graphs are made.

    Attributes:
        dtype: precision of their arithmetic.
        fp32_components: those that stay in float32 all the same.
        opset: ONNX opset.
        atol: allowed error relative to an output's range.
    """

    dtype: Precision
    fp32_components: tuple[str, ...]
    opset: int
    atol: float


def export_bundle(
    model: str | Path,
    target: str | Path,
    *,
    dtype: Precision = "fp32",
    fp32_components: Sequence[str] = (),
    opset: int = 23,
    components: Sequence[str] | None = None,
    atol: float | None = None,
    taps: Sequence[str] = DEFAULT_TAPS,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """The bundle of a checkpoint, written as a whole or not at all.

    Args:
        model: a folder that diffusers' `save_pretrained` wrote, of a text-to-image model or of a label diffusion model;
            or "demo" or "demo-gs", the models that ship with segrefine.
        target: the bundle's folder.
        dtype: what the graphs compute in. The VAE, normalisations and distances stay in float32, and so do all inputs
            and outputs.
        fp32_components: graphs that compute in float32 all the same, where half precision is too little.
        opset: ONNX opset, 23 or later.
        components: the graphs to export, of `GRAPHS` or `LABEL_GRAPHS`; None exports all that the method takes.
        atol: largest allowed error against torch, relative to the range of the output; None takes `TOLERANCE`.
        taps: named submodules of a text-to-image model's UNet whose outputs are the features.
        settings: default settings of the method; None takes those that measured best.
        overwrite: replaces a bundle that is there already.
        progress: called with a line about each step.

    Raises:
        ExportError: the model is no such checkpoint, a component is unknown, or a graph differs from torch.
        OutputError: the target is taken or cannot be written.
        SettingsError: a tap is no submodule of the UNet.
    """
    folder = DEMO_CHECKPOINTS.get(str(model), Path(model))
    labels = is_label_checkpoint(folder)
    known = LABEL_GRAPHS if labels else GRAPHS
    if unknown := sorted({*(components or ()), *fp32_components} - known.keys()):
        raise ExportError(f"unknown component {unknown[0]!r}", hint=f"there are: {', '.join(known)}")
    if fp32_components and dtype == "fp32":
        raise ExportError("fp32_components makes exceptions to half precision", hint="add --dtype fp16")
    options = GraphOptions(
        dtype=dtype,
        fp32_components=tuple(fp32_components),
        opset=opset,
        atol=TOLERANCE[dtype] if atol is None else atol,
    )
    plan = _plan_labels(folder) if labels else _plan(folder, tuple(taps))
    written: dict[str, GraphModule] = {}
    stores: dict[Path, WeightFile] = {}
    ops: set[str] = set()
    with BundleWriter(target, overwrite=overwrite) as writer:
        for name in components or [each for each in plan.graphs if each not in plan.unneeded]:
            progress(f"exporting {name}")
            written[name] = module = plan.graphs[name]()
            path = writer.directory / module.file
            weights = stores.setdefault(path.parent, WeightFile(path.with_name("model.onnx_data")))
            ops.update(_write_graph(module, path, weights, _trial_sizes(plan), options))
        _write_texts(plan.checkpoint, writer.directory)
        manifest = _manifest(plan, options, written, ops)
        return writer.finish(replace(manifest, settings=settings or manifest.settings))


def _plan(folder: Path, taps: tuple[str, ...]) -> _Plan:
    """The plan for a text-to-image model."""
    checkpoint = load_checkpoint(folder)
    source = Source(checkpoint=checkpoint, injector=inject_masks(checkpoint.unet, masked_attention), taps=taps)
    graphs = {name: partial(make, source) for name, make in GRAPHS.items()}
    return _Plan(
        method="g4seg",
        checkpoint=checkpoint,
        denoiser=checkpoint.unet,
        graphs=graphs,
        settings=G4SegSettings(),
        taps=taps,
    )


def _plan_labels(folder: Path) -> _Plan:
    """The plan for a label diffusion model."""
    checkpoint = load_label_checkpoint(folder)
    return _Plan(
        method="gs",
        checkpoint=checkpoint,
        denoiser=checkpoint.label_denoiser,
        graphs={name: partial(make, checkpoint) for name, make in LABEL_GRAPHS.items()},
        unneeded=() if isinstance(checkpoint.codec, VaeCodec) else ("vae_decoder",),
        settings=GsSettings(),
        label_codec=describe_codec(checkpoint.codec),
    )


def _write_graph(
    module: GraphModule, path: Path, weights: WeightFile, sizes: Sequence[Mapping[str, int]], options: GraphOptions
) -> tuple[str, ...]:
    """The custom ops of the graph that is written to `path`: traced at the first sizes, checked at the others."""
    half = options.dtype == "fp16" and not module.island and module.spec.name not in options.fp32_components
    with half_precision(module) if half else nullcontext():
        model = export_graph(module, sizes[0], opset=options.opset)
        ops = attach_functions(model)
        halve_weights(model)
        path.parent.mkdir(exist_ok=True)
        weights.take(model)
        ir.save(model, path)
    trials = (example_inputs(module, each, seed) for seed, each in enumerate(sizes[1:], 1))
    verify_graph(path, module, trials, atol=options.atol)
    return ops


def _trial_sizes(plan: _Plan) -> list[dict[str, int]]:
    """Three small sets of sizes; the first has odd latents, as `export_graph` wants them."""
    coarse = 2 ** len(plan.denoiser.down_blocks)
    tokens, pixels = plan.checkpoint.tokenizer.model_max_length, plan.checkpoint.vae_scale_factor
    trials = []
    for batch, height, width, length in (
        (2, coarse + 1, coarse + 3, 7),
        (1, 2 * coarse, coarse, tokens),
        (3, coarse + 3, 2 * coarse, 5),
    ):
        latent = {"height": height, "width": width, "pixels": height * width}
        image = {"image_height": height * pixels, "image_width": width * pixels}
        trials.append({"batch": batch, "tokens": length, **latent, **image})
    return trials


def _write_texts(checkpoint: Parts, directory: Path) -> None:
    """Writes the files that diffusers' own tools read as well: tokenizer, schedule, pipeline."""
    checkpoint.tokenizer.save_pretrained(directory / "tokenizer")
    for relative, content in {
        "model_index.json": checkpoint.model_index,
        "scheduler/scheduler_config.json": checkpoint.scheduler_config,
    }.items():
        file = directory / relative
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _manifest(plan: _Plan, options: GraphOptions, modules: Mapping[str, GraphModule], ops: Collection[str]) -> Manifest:
    checkpoint = plan.checkpoint
    return Manifest(
        method=plan.method,
        sample_size=plan.denoiser.config.sample_size,
        latent_channels=checkpoint.vae.config.latent_channels,
        vae_scale_factor=checkpoint.vae_scale_factor,
        scaling_factor=checkpoint.vae.config.scaling_factor,
        prediction_type=checkpoint.prediction_type,
        tokens=checkpoint.tokenizer.model_max_length,
        dtype=options.dtype,
        opset=options.opset,
        feature_taps=plan.taps,
        graphs={name: module.file for name, module in modules.items()},
        components={name: module.spec for name, module in modules.items()},
        ops=tuple(sorted(ops)),
        label_codec=plan.label_codec,
        settings=plan.settings.to_dict(),
        versions={"segrefine": __version__} | {package: version(package) for package in _PACKAGES},
    )
