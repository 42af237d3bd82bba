"""The preset `paper`, switch by switch: what each of its settings does alone, and what all do together.

    python -m benchmarks.switches DATA    emoji scenes of validation, and photographs of DATA (VOC's layout) with spoilt
                                          true masks; writes benchmarks/results/switches.*

Each row starts from the demo bundle's settings, without the guard. Rows that were measured on the same masks are kept,
so that a run that was stopped goes on; `--again` measures all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from benchmarks.evaluate import WORSE
from benchmarks.photographs import CountedUnet, Photograph, read_photographs
from benchmarks.quality import VALIDATION_SEED, cases_of
from benchmarks.report import estimate, markdown_table, read_result, write_result
from segrefine.assets import demo_bundle
from segrefine.presets import PRESETS
from segrefine.runtime.pipeline import Refiner
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

PAPER = PRESETS["g4seg"]["paper"]
TOGETHER = {"rounds": ("timesteps", "confusion"), "no text evidence": ("text_timesteps", "text_weight")}
"""Settings that only make sense together."""
UNMASKED = {"comparison": "unmasked"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: what is changed, and whether the guard looks at the result."""

    changes: Mapping[str, Any]
    guard: bool = False


def list_variants(settings: Mapping[str, Any]) -> dict[str, Variant]:
    """The rows by name: the default, each switch of `paper` that changes it, and all of them.

    Args:
        settings: those of the bundle, as JSON has them.
    """
    grouped = {name for names in TOGETHER.values() for name in names}
    changed = {name: value for name, value in PAPER.items() if value != settings[name]}
    alone = {title: {name: PAPER[name] for name in names} for title, names in TOGETHER.items()}
    alone |= {f"`{name}` {value}": {name: value} for name, value in changed.items() if name not in grouped}
    return {
        "default": Variant(changes={}),
        "default, guard": Variant(changes={}, guard=True),
        **{name: Variant(changes=changes) for name, changes in alone.items()},
        "`comparison` unmasked": Variant(changes=UNMASKED),
        "paper": Variant(changes=PAPER),
        "paper, `comparison` unmasked": Variant(changes={**PAPER, **UNMASKED}),
        "paper, guard": Variant(changes=PAPER, guard=True),
    }


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--emoji", default=100, show_default=True, help="Masks of emoji scenes.")
@click.option("--photographs", default=60, show_default=True, help="Photographs, with one mask each.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure at most so many rows now.  [default: all]")
@click.option("--again", is_flag=True, help="Measure rows again that are there already.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(data: Path, emoji: int, photographs: int, limit: int | None, again: bool, threads: int, cache: Path) -> None:
    """Measure each switch of the preset `paper`."""
    parts = {"emoji": read_emoji(emoji, cache), "photographs": _read_spoilt(data, photographs)}
    counts = {name: len(cases) for name, cases in parts.items()}
    known = read_result("switches")
    rows: dict[str, Any] = known.get("rows", {}) if known.get("masks") == counts and not again else {}
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        variants = list_variants(refiner.settings.to_dict() | _as_json(refiner))
        missing = [name for name in variants if name not in rows]
        for name in islice(missing, limit):
            rows[name] = {part: _measure(refiner, variants[name], cases, name) for part, cases in parts.items()}
            click.echo(f"{name}: {rows[name]}", err=True)
            ordered = {each: rows[each] for each in variants if each in rows}
            write_result("switches", {"rows": ordered, "masks": counts}, _describe(ordered, counts))
    click.echo(_describe(rows, counts))


def _as_json(refiner: Refiner) -> dict[str, Any]:
    """Settings that are tuples, as lists."""
    return {name: list(value) for name, value in refiner.settings.to_dict().items() if isinstance(value, tuple)}


def read_emoji(count: int, cache: Path, first: int = VALIDATION_SEED) -> list[Photograph]:
    """Masks of the emoji scenes from a seed on, which is that of the scenes of validation if none is given."""
    sources = load_sources(cache, held_out=True)
    found: list[Photograph] = []
    number = first
    while len(found) < count:
        found += [
            Photograph(
                number=number, image=case.image, coarse=case.coarse, truth=case.truth, label=case.label, kind=case.kind,
                void=np.zeros(case.truth.shape, np.bool_),
            )
            for case in cases_of(compose_scene(np.random.default_rng(number), sources), number)
        ]  # fmt: skip
        number += 1
    return found[:count]


def _read_spoilt(data: Path, images: int) -> list[Photograph]:
    """One spoilt mask of each photograph."""
    return list(read_photographs(data, images, coarse=False, kinds=1))[:images]


def _measure(refiner: Refiner, variant: Variant, cases: Sequence[Photograph], name: str) -> dict[str, Any]:
    """Figures of one row on one kind of image."""
    counted = CountedUnet(refiner.engines["unet"])
    features = CountedUnet(refiner.engines["unet_features"])
    changed = refiner.derive({"unet": counted, "unet_features": features}, settings=variant.changes)
    results = [changed(case.image, case.coarse, case.label, guard=variant.guard) for case in tqdm(cases, desc=name)]
    before = np.array([case.iou(case.coarse > 0.5) for case in cases])
    after = np.array([case.iou(result.mask) for case, result in zip(cases, results, strict=True)])
    mean = estimate(after, [case.number for case in cases])
    return {
        "coarse": float(before.mean()),
        "iou": mean.mean,
        "error": mean.standard_error,
        "worse": float((after < before - WORSE).mean()),
        "passes": (counted.samples + features.samples) / len(cases),
        "seconds": float(np.median([sum(result.seconds.values()) for result in results])),
    }


def _describe(rows: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """The page."""
    header = ["changed", *(f"{part}: {what}" for part in counts for what in ("IoU", "made worse", "UNet passes"))]
    coarse = ["coarse masks"]
    for part in counts:
        coarse += [f"{next(iter(rows.values()))[part]['coarse']:.3f}", "", ""]
    table = [
        [
            name,
            *(
                text
                for part in counts
                for text in (
                    f"{row[part]['iou']:.3f} ± {row[part]['error']:.3f}",
                    f"{row[part]['worse']:.1%}",
                    f"{row[part]['passes']:.1f}",
                )
            ),
        ]
        for name, row in rows.items()
    ]
    return "\n\n".join(
        [
            "# The preset `paper`, switch by switch",
            f"{counts['emoji']} masks of emoji scenes (validation) and spoilt true masks of {counts['photographs']} "
            f"photographs; demo model. Mean IoU with the true mask; made worse: by more than {WORSE}. Each row changes "
            "the bundle's settings as it says. The guard is left out, but in the rows that name it.",
            markdown_table(header, [coarse, *table]),
            "Without text evidence its worth is not measured either, so that the rounds always count. "
            "`docs/method.md` says what each switch means.",
        ]
    )


if __name__ == "__main__":
    main()
