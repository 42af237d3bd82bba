"""`segrefine demo`: the twelve shipped scenes, refined, side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from segrefine.assets import demo_bundle
from segrefine.cli.console import common_options, engine_options, progress_bar, show


@click.command("demo")
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@engine_options
@common_options
def command(output: Path, bundle: Path | None, backend: str, device: str, threads: int | None, as_json: bool) -> None:
    """Refine twelve coarse masks, and write masks, overlays and a contact sheet to OUTPUT."""
    from segrefine.runtime import pictures
    from segrefine.runtime.metrics import iou
    from segrefine.runtime.output import save_image, save_mask
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.samples import load_samples
    from segrefine.storage import output_errors

    with output_errors(output):
        for folder in ("masks", "overlays", "traces"):
            (output / folder).mkdir(parents=True, exist_ok=True)
    began, entries, rows = time.perf_counter(), [], []
    samples = load_samples()
    with (
        Refiner.from_bundle(bundle or demo_bundle(), backend=backend, device=device, threads=threads) as refine,
        progress_bar(len(samples), "refining") as bar,
    ):
        for sample in samples:
            result = refine(sample.image, sample.coarse, sample.label)
            before, after = (iou(mask, sample.truth) for mask in (sample.coarse > 0.5, result.mask))
            entries.append({"name": sample.name, "label": sample.label, "iou_before": before, "iou_after": after})
            drawn = pictures.overlay(sample.image, result.mask)
            rows.append(
                [
                    pictures.Tile(picture=sample.image, caption=f'"{sample.label}"'),
                    pictures.Tile(
                        picture=pictures.overlay(sample.image, sample.coarse > 0.5), caption=f"coarse, IoU {before:.2f}"
                    ),
                    pictures.Tile(picture=drawn, caption=f"refined, IoU {after:.2f}"),
                ]
            )
            trace = pictures.trace_sheet(sample.image, sample.coarse, result, refine.decode, f'"{sample.label}"')
            save_mask(output / "masks" / f"{sample.name}.png", result.mask)
            save_image(output / "overlays" / f"{sample.name}.png", drawn)
            save_image(output / "traces" / f"{sample.name}.png", trace)
            bar.update(1)
    paired = [left + right for left, right in zip(rows[0::2], rows[1::2], strict=True)]
    save_image(output / "sheet.png", pictures.contact_sheet(paired, "segrefine demo: image, coarse mask, refined mask"))
    summary = _summary(entries) | {"seconds": round(time.perf_counter() - began, 2), "sheet": str(output / "sheet.png")}
    show(summary, _table(summary), as_json=as_json)


def _summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    means = {f"mean_iou_{when}": sum(e[f"iou_{when}"] for e in entries) / len(entries) for when in ("before", "after")}
    return means | {"samples": entries}


def _table(summary: dict[str, Any]) -> str:
    lines = [f"{'sample':<24}{'coarse':>8}{'refined':>9}"]
    lines += [f"{e['name']:<24}{e['iou_before']:>8.3f}{e['iou_after']:>9.3f}" for e in summary["samples"]]
    lines += [f"{'mean IoU':<24}{summary['mean_iou_before']:>8.3f}{summary['mean_iou_after']:>9.3f}", ""]
    return "\n".join(lines) + f"{summary['seconds']} s; look at {summary['sheet']}"
