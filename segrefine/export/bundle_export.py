"""Checkpoint → bundle: every part exported, checked, and written beside what the runtime reads."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from segrefine import __version__
from segrefine.assets import SHIPPED_CHECKPOINTS
from segrefine.bundle import Bundle, BundleWriter, Manifest, Method, Precision
from segrefine.errors import ExportError
from segrefine.export.functions import attach_functions
from segrefine.export.graph import cut_graph, example_inputs, export_graph
from segrefine.export.mapped import release_weight_files
from segrefine.export.modules import (
    GRAPHS,
    ISLANDS,
    LABEL_GRAPHS,
    PARTS,
    UNETS,
    WHOLE_UNET,
    GraphModule,
    GraphSource,
    MaskedUnet,
    has_graph,
)
from segrefine.export.ops import masked_attention
from segrefine.export.other_vae import with_vae
from segrefine.export.precision import half_precision
from segrefine.export.resources import check_resources
from segrefine.export.sources import find_model
from segrefine.export.storage import WeightFile, halve_weights
from segrefine.export.verify import Trial, run_trials, verify_graph
from segrefine.reference.attention_maps import has_map_levels
from segrefine.reference.checkpoint import (
    Checkpoint,
    ModelParts,
    load_checkpoint,
    load_label_checkpoint,
    reopen,
)
from segrefine.reference.configs import CONTEXT, is_label_checkpoint
from segrefine.reference.label_codec import VaeCodec, describe_codec
from segrefine.reference.weight_files import Model, count_weights
from segrefine.settings import G4SegSettings, GsSettings, Settings
from segrefine.spec import ComponentSpec
from segrefine.storage import output_errors

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}
_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Plan for exporting a checkpoint.

    Attributes:
        method: of the bundle.
        checkpoint: the model; its parts are loaded by `reopen`, and dropped after use.
        denoiser: the name of its denoiser.
        graphs: what makes each component, from an opened checkpoint.
        settings: default settings of the method.
        hidden: what makes graphs that the bundle does not keep.
        unneeded: components that are exported only when asked for.
        taps: named submodules of the UNet whose outputs are the features.
        label_codec: see `Manifest`.
    """

    method: Method
    checkpoint: ModelParts
    denoiser: str
    graphs: Mapping[str, Callable[[Any], GraphModule]]
    settings: Settings
    hidden: Mapping[str, Callable[[Any], GraphModule]] = field(default_factory=dict)
    unneeded: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    label_codec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """Options for making graphs.

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

    def halves(self, component: str) -> bool:
        """Return whether a component computes in half precision."""
        return self.dtype == "fp16" and component not in (*ISLANDS, *self.fp32_components)


def export_bundle(
    model: Model,
    target: str | Path,
    *,
    revision: str | None = None,
    vae: str | Path | None = None,
    dtype: Precision = "fp32",
    fp32_components: Sequence[str] = (),
    opset: int = 23,
    components: Sequence[str] | None = None,
    atol: float | None = None,
    taps: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Bundle:
    """The bundle of a checkpoint, written as a whole or not at all.

    Args:
        model: a folder that diffusers' `save_pretrained` wrote, of a text-to-image model or of a label diffusion model;
            a text-to-image model's single file; a hub id `OWNER/NAME`; or "photo" or "photo-gs", the models that ship
            with segrefine.
        target: the bundle's folder.
        revision: branch, tag or commit of a hub id; None is the newest.
        vae: folder or hub id of another image codec, such as TAESD; None for the model's own.
        dtype: what the graphs compute in. The VAE, normalisations and distances stay in float32, and so do all inputs
            and outputs.
        fp32_components: graphs that compute in float32 all the same, where half precision is too little.
        opset: ONNX opset, 23 or later.
        components: the graphs to export, of `GRAPHS` or `LABEL_GRAPHS`; None exports all that the method takes.
        atol: largest allowed error against torch, relative to the range of the output; None takes `TOLERANCE`.
        taps: named submodules of a text-to-image model's UNet whose outputs are the features; None takes those of the
            model's family.
        settings: default settings of the method; None takes those that measured best.
        overwrite: replaces a bundle that is there already.
        progress: called with a line about each step.

    Raises:
        ExportError: the model is no such checkpoint, a component is unknown, or a graph differs from torch.
            Or memory or disk are too little.
        OutputError: the target is taken or cannot be written.
        SettingsError: a tap is no submodule of the UNet.
    """
    options = GraphOptions(
        dtype=dtype,
        fp32_components=tuple(fp32_components),
        opset=opset,
        atol=TOLERANCE[dtype] if atol is None else atol,
    )
    shipped = model in SHIPPED_CHECKPOINTS
    found = find_model(model, revision) if isinstance(model, str) else model
    with with_vae(found, vae) as source:
        plan = _plan_labels(source) if is_label_checkpoint(source) else _plan(source, taps, shipped=shipped)
        _check_components([*(components or ()), *fp32_components], plan, options)
        wanted = list(components or [each for each in plan.graphs if each not in plan.unneeded])
        parts = {PARTS.get(name, name): name for name in wanted if name != "alignment"}
        half = [part for part, name in parts.items() if options.halves(name)]
        check_resources({part: count_weights(source, part) for part in parts}, half, Path(target))
        with BundleWriter(target, overwrite=overwrite) as writer:
            graphs = _Graphs(plan, options, writer.directory)
            _write_graphs(graphs, wanted, options, progress)
            _write_texts(plan.checkpoint, writer.directory)
            manifest = _manifest(plan, options, graphs)
            return writer.finish(replace(manifest, settings=settings or manifest.settings))


def _check_components(names: Sequence[str], plan: _Plan, options: GraphOptions) -> None:
    """Raise ExportError where a component is unknown, or stays in float32 in an export that is float32."""
    if unknown := sorted(set(names) - plan.graphs.keys()):
        raise ExportError(f"unknown component {unknown[0]!r}", hint=f"there are: {', '.join(plan.graphs)}")
    if options.fp32_components and options.dtype == "fp32":
        raise ExportError("fp32_components only applies to dtype fp16", hint="add --dtype fp16")


def _plan(model: Model, taps: Sequence[str] | None, *, shipped: bool) -> _Plan:
    """The plan for a text-to-image model; the defaults were measured with the one that ships."""

    def make(graph: Callable[[GraphSource], GraphModule], checkpoint: Checkpoint) -> GraphModule:
        return graph(GraphSource(checkpoint=checkpoint, attend=masked_attention, taps=chosen))

    loaded = load_checkpoint(model)
    chosen = loaded.family.taps if taps is None else tuple(taps)
    parts = {kind.part for kind in loaded.family.text_encoders}
    graphs = {name: partial(make, graph) for name, graph in GRAPHS.items() if has_graph(name, parts)}
    return _Plan(
        method="g4seg",
        checkpoint=loaded,
        denoiser="unet",
        graphs=graphs,
        hidden={WHOLE_UNET: partial(make, partial(MaskedUnet, name=WHOLE_UNET))},
        settings=G4SegSettings().with_changes({} if shipped else loaded.family.settings),
        unneeded=() if has_map_levels(loaded.configs["unet"]) else ("unet_attention",),
        taps=chosen,
    )


def _plan_labels(model: Model) -> _Plan:
    """The plan for a label diffusion model."""
    checkpoint = load_label_checkpoint(model)
    parts = {kind.part for kind in checkpoint.family.text_encoders}
    return _Plan(
        method="gs",
        checkpoint=checkpoint,
        denoiser="label_denoiser",
        graphs={name: graph for name, graph in LABEL_GRAPHS.items() if has_graph(name, parts)},
        settings=GsSettings(context=checkpoint.model_index.get(CONTEXT) is True),
        unneeded=() if isinstance(checkpoint.codec, VaeCodec) else ("vae_decoder",),
        label_codec=describe_codec(checkpoint.codec),
    )


def _write_graphs(
    graphs: _Graphs, wanted: Sequence[str], options: GraphOptions, progress: Callable[[str], None]
) -> None:
    """Write the graphs of all components. Those of the UNet are parts of one, where the UNet itself is wanted."""
    parts = [name for name in wanted if name in UNETS and options.halves(name) == options.halves("unet")]
    together = parts if "unet" in parts and len(parts) > 1 else []
    for name in wanted:
        if name not in together:
            progress(f"exporting {name}")
            graphs.write(name)
        elif name == together[0]:
            progress(f"exporting {', '.join(together)}")
            graphs.write_parts(WHOLE_UNET, together)


class _Graphs:
    """The graphs of one bundle, written one after another; of the checkpoint no more is open than one needs.

    Attributes:
        specs: what each graph takes and gives.
        files: the path of each graph in the bundle.
        ops: custom ops that they use.

    Args:
        plan: what becomes of the checkpoint.
        options: how graphs are made.
        directory: of the bundle.
    """

    def __init__(self, plan: _Plan, options: GraphOptions, directory: Path) -> None:
        self._plan, self._options, self._directory = plan, options, directory
        self._sizes = _trial_sizes(plan)
        self._stores: dict[Path, WeightFile] = {}
        self.specs: dict[str, ComponentSpec] = {}
        self.files: dict[str, str] = {}
        self.ops: set[str] = set()

    def write(self, name: str) -> None:
        """Write one graph: traced at the first trial sizes, checked at the others."""
        module, model, trials = self._trace(name, half=self._options.halves(name))
        spec, file = module.spec, module.file
        del module
        self._finish(model, spec, file, trials)

    def write_parts(self, whole: str, names: Sequence[str]) -> None:
        """Write graphs that each give a part of what one graph gives, which is traced once.

        Args:
            whole: the graph, which the bundle does not keep.
            names: the parts, of one precision.
        """
        module, model, trials = self._trace(whole, half=self._options.halves(names[0]))
        spec, path = module.spec, self._directory / module.file
        self._save(model, path)
        del module, model
        gc.collect()
        for name in names:
            file, gives = UNETS[name]
            part, cut = spec.part(name, gives), ir.load(path)
            cut_graph(cut, part)
            self._finish(cut, part, file, trials)
            del cut
        path.unlink()

    def _trace(self, name: str, *, half: bool) -> tuple[GraphModule, ir.Model, list[Trial]]:
        """The module of a component, its graph, and what the graph must compute."""
        make = {**self._plan.graphs, **self._plan.hidden}[name]
        module = make(reopen(self._plan.checkpoint, None if half else torch.float32))
        with half_precision(module) if half else nullcontext():
            model = export_graph(module, self._sizes[0], opset=self._options.opset)
        self.ops.update(attach_functions(model))
        halve_weights(model)
        inputs = (example_inputs(module, sizes, seed) for seed, sizes in enumerate(self._sizes[1:], 1))
        return module, model, run_trials(module, inputs)

    def _finish(self, model: ir.Model, spec: ComponentSpec, file: str, trials: list[Trial]) -> None:
        """Write a graph, and compare it with its module."""
        self.specs[spec.name], self.files[spec.name] = spec, file
        self._save(model, self._directory / file)
        del model
        gc.collect()  # and with it the checkpoint is gone, before the graph is opened
        release_weight_files()
        verify_graph(self._directory / file, spec, trials, atol=self._options.atol)

    def _save(self, model: ir.Model, path: Path) -> None:
        with output_errors(path):
            path.parent.mkdir(exist_ok=True)
            self._stores.setdefault(path.parent, WeightFile(path.with_name("model.onnx_data"))).take(model)
            ir.save(model, path)


def _trial_sizes(plan: _Plan) -> list[dict[str, int]]:
    """Three small sets of sizes; the first has odd latents, as `export_graph` wants them."""
    checkpoint = plan.checkpoint
    coarse = 2 ** len(checkpoint.configs[plan.denoiser]["down_block_types"])
    tokens, pixels = checkpoint.tokenizer.model_max_length, checkpoint.vae_scale_factor
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


def _write_texts(checkpoint: ModelParts, directory: Path) -> None:
    """Writes the files that diffusers' own tools read as well: tokenizers, schedule, pipeline."""
    for name, tokenizer in checkpoint.tokenizers.items():
        tokenizer.save_pretrained(directory / name)
    for relative, content in {
        "model_index.json": checkpoint.model_index,
        "scheduler/scheduler_config.json": checkpoint.scheduler_config,
    }.items():
        file = directory / relative
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _manifest(plan: _Plan, options: GraphOptions, graphs: _Graphs) -> Manifest:
    checkpoint, vae = plan.checkpoint, plan.checkpoint.configs["vae"]
    return Manifest(
        method=plan.method,
        sample_size=checkpoint.configs[plan.denoiser]["sample_size"],
        latent_channels=vae["latent_channels"],
        vae_scale_factor=checkpoint.vae_scale_factor,
        scaling_factor=vae["scaling_factor"],
        prediction_type=checkpoint.prediction_type,
        tokens=checkpoint.tokenizer.model_max_length,
        dtype=options.dtype,
        opset=options.opset,
        feature_taps=plan.taps,
        graphs=graphs.files,
        components=graphs.specs,
        ops=tuple(sorted(graphs.ops)),
        label_codec=plan.label_codec,
        settings=plan.settings.to_dict(),
        versions={"segrefine": __version__} | {package: version(package) for package in _PACKAGES},
    )
