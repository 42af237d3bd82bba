"""Models that know nothing: their weights are random, so their evidence is worth nothing and must not move a mask.

    python -m benchmarks.random_models DATA                 small models; writes benchmarks/results/random_models.*
    python -m benchmarks.random_models DATA --models sd15   Stable Diffusion 1.5's size: minutes for each photograph;
                                                            --resolution 256 takes a fifth of the time

DATA is in VOC's layout, as for `benchmarks.photographs`; with DATA/coarse the masks in it are refined too.
A model that is measured again replaces its row; other rows are kept. Models and bundles are made under --folder, and
used again. To export Stable Diffusion 1.5 takes longer than to measure it. So only its text encoder is exported, and
PyTorch runs the rest, by the modules that an export traces.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.evaluate import WORSE
from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.photographs import CountedUnet, Photograph, read_photographs
from benchmarks.report import markdown_table, read_result, write_result
from segrefine.assets import demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.export import export_bundle
from segrefine.export.modules import GRAPHS, GraphModule, GraphSource
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.runtime.pipeline import Refiner

MOST_WORSE = 0.03
TINY = {"block_out_channels": (16, 32), "norm_num_groups": 8}
MODELS = ("tiny", "demo", "demo-unet", "sd15")
"""The demo's architecture, narrowed and predicting the noise; as it is; and as it is with the UNet alone random."""


@dataclass(frozen=True, kw_only=True)
class RandomRow:
    """Result of one random model.

    Attributes:
        model: which of `MODELS`, and the pixels of a side that it sees.
        masks: how many it refined.
        most_worth: of its evidence, over the masks.
        counted: share of the masks for which the evidence was worth more than 0.
        changed: mean share of the pixels that changed sides.
        before: mean IoU of the coarse masks.
        after: mean IoU of the results.
        worse: share of the masks made worse.
        passes: samples of the UNet for each mask.
    """

    model: str
    masks: int
    most_worth: float
    counted: float
    changed: float
    before: float
    after: float
    worse: float
    passes: float


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--models", multiple=True, type=click.Choice(MODELS), default=MODELS[:-1], show_default=True)
@click.option("--images", default=20, show_default=True, help="Use so many photographs.")
@click.option("--kinds", default=3, show_default=True, help="Ways in which the masks of one photograph are spoilt.")
@click.option("--coarse", is_flag=True, help="Refine the masks in DATA/coarse, not spoilt true masks.")
@click.option("--resolution", type=int, help="Pixels of a side that the model sees.  [default: the model's]")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Models and bundles."
)
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
def main(
    data: Path, models: Sequence[str], images: int, kinds: int, coarse: bool, resolution: int | None, folder: Path,
    threads: int,
) -> None:  # fmt: skip
    """Measure what evidence of random models is worth, and what they do to masks."""
    cases = list(read_photographs(data, images, coarse=coarse, kinds=kinds))
    if not cases:
        raise click.UsageError(f"expected photographs with masks in {data}, found none")
    what = "coarse masks of a network" if coarse else "spoilt true masks"
    found: dict[str, dict[str, Any]] = read_result("random_models").get("rows", {})
    for model in models:
        with _open(model, folder, threads, resolution) as refiner:
            row = _measure(f"{model}, {resolution or refiner.resolution} pixels", refiner, cases)
        found[f"{row.model}, {what}"] = dataclasses.asdict(row)
        click.echo(row, err=True)
        write_result("random_models", {"rows": found}, _describe(found))
    click.echo(_describe(found))


def _open(model: str, folder: Path, threads: int, resolution: int | None) -> Refiner:
    """A refiner on a random model, with the settings that any export gets."""
    bundle = folder / f"random-{model}-bundle"
    if model != "sd15":
        if not bundle.exists():
            checkpoint = folder / f"random-{model}"
            shutil.rmtree(checkpoint, ignore_errors=True)
            export_bundle(str(write_random(model, 0, checkpoint)), bundle)
        return Refiner.from_bundle(bundle, threads=threads, resolution=resolution)
    torch.set_num_threads(threads)
    checkpoint = write_full_size("sd15", folder, torch.float16)
    if not bundle.exists():
        export_bundle(str(checkpoint), bundle, components=["text_encoder"])
    opened = Bundle.open(bundle)
    taps = opened.manifest.feature_taps
    source = GraphSource(checkpoint=load_checkpoint(checkpoint), attend=attend_naive, taps=taps)
    engines = {name: TorchEngine(GRAPHS[name](source).eval()) for name in Refiner.components(opened)}
    return Refiner(opened, engines, resolution=resolution)


class TorchEngine:
    """A component that PyTorch runs, as the engine that it would become."""

    def __init__(self, module: GraphModule) -> None:
        self.module, self.spec = module, module.spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """Run the module."""
        with torch.inference_mode():
            outputs = self.module(*(torch.from_numpy(feeds[tensor.name]) for tensor in self.spec.inputs))
        names = [tensor.name for tensor in self.spec.outputs]
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: output.numpy() for name, output in zip(names, several, strict=True)}

    def close(self) -> None:
        """Do nothing, since nothing is held open."""

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_random(model: str, seed: int, target: Path) -> Path:
    """Write a checkpoint of random weights, and return its folder.

    Args:
        model: one of `MODELS`, but for those of full size.
        seed: of the weights.
        target: the folder.
    """
    demo, narrow = demo_checkpoint(), TINY if model == "tiny" else {}
    shutil.copytree(demo, target)
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.load_config(demo / "unet") | narrow
    UNet2DConditionModel.from_config(unet).save_pretrained(target / "unet")
    if model != "demo-unet":
        AutoencoderKL.from_config(AutoencoderKL.load_config(demo / "vae")).save_pretrained(target / "vae")
        CLIPTextModel(CLIPTextConfig.from_pretrained(demo / "text_encoder")).save_pretrained(target / "text_encoder")
    if model == "tiny":
        file = target / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "epsilon"}))
    return target


def _measure(model: str, opened: Refiner, cases: Sequence[Photograph]) -> RandomRow:
    """Refine all masks with one model."""
    counted = CountedUnet(opened.engines["unet"])
    refiner = opened.derive({"unet": counted})
    results = [refiner(case.image, case.coarse, case.label) for case in tqdm(cases, desc=model)]
    pairs = list(zip(cases, results, strict=True))
    before = np.array([case.iou(case.coarse > 0.5) for case in cases])
    after = np.array([case.iou(result.mask) for case, result in pairs])
    worth = np.array([1.0 if result.evidence_worth is None else result.evidence_worth for result in results])
    return RandomRow(
        model=model, masks=len(cases), most_worth=float(worth.max()), counted=float((worth > 0).mean()),
        changed=float(np.mean([((case.coarse > 0.5) != result.mask).mean() for case, result in pairs])),
        before=float(before.mean()), after=float(after.mean()), worse=float((after < before - WORSE).mean()),
        passes=counted.samples / len(cases),
    )  # fmt: skip


def _describe(found: dict[str, dict[str, Any]]) -> str:
    """The page."""
    header = ["model", "masks", "largest worth", "worth > 0", "pixels changed", "IoU", "made worse", "UNet passes"]
    table = [
        [
            key, row["masks"], f"{row['most_worth']:.3f}", f"{row['counted']:.1%}", f"{row['changed']:.1%}",
            f"{row['before']:.3f} → {row['after']:.3f}", f"{row['worse']:.1%}", f"{row['passes']:.1f}",
        ]
        for key, row in found.items()
    ]  # fmt: skip
    worth, worse = (max(row[name] for row in found.values()) for name in ("most_worth", "worse"))
    bars = [
        ["largest worth of the evidence", "0", f"{worth:.3f}", "yes" if worth == 0 else "no"],
        ["masks made worse by more than 0.02", f"<= {MOST_WORSE:.0%}", f"{worse:.1%}", _met(worse)],
    ]
    return "\n\n".join(
        [
            "# Models that know nothing",
            "Random weights, so every bundle has the settings of any export and no guard of its own. Where the "
            "evidence is worth 0, the edge step and the free guard alone make the mask.",
            markdown_table(header, table),
            "## Bars",
            markdown_table(["figure, worst row", "bar", "measured", "met"], bars),
        ]
    )


def _met(worse: float) -> str:
    return "yes" if worse <= MOST_WORSE else "no"


if __name__ == "__main__":
    main()
