"""Effect of refining on photographs: damaged true masks, and coarse masks of a real network.

    python -m benchmarks.photographs DATA                    spoilt true masks of a data set in VOC's layout
    python -m benchmarks.photographs DATA --coarse           the coarse masks in DATA/coarse instead
    python -m benchmarks.photographs DATA --bundle MODEL     another model than `photo`

DATA holds images/ and masks/ (or JPEGImages/ and SegmentationClass/): palette pictures of class indices, 255 for pixels
that do not count, and maybe classes.json with the names of the indices. The photographs are not part of the project.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.baselines import guided_filter
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.evaluate import WORSE, make_cases
from benchmarks.report import estimate, markdown_table, write_result
from segrefine.assets import photo_bundle
from segrefine.engines import Closing, Engine
from segrefine.evaluation.bench.baselines import dense_crf, grabcut
from segrefine.runtime.drawing.pictures import BeforeAfter, before_after_sheet
from segrefine.runtime.files.output import save_image
from segrefine.runtime.imaging.edges import EdgeSettings, sharpen
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings

Mask = NDArray[np.bool_]
VOID = 255
LEAST_SHARE = 0.01
"""Classes that cover less of an image are left out."""
SHOWN = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Photograph:
    """One coarse mask of a photograph.

    Attributes:
        number: of the photograph; masks of one photograph are not independent.
        image: uint8 (H, W, 3) RGB.
        coarse: float32 (H, W) in [0, 1].
        truth: bool (H, W).
        void: bool (H, W), pixels that do not count.
        label: the class in words.
        kind: how the mask was spoilt, or "network".
    """

    number: int
    image: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    truth: Mask
    void: Mask
    label: str
    kind: str

    def iou(self, mask: Mask) -> float:
        """Intersection over union with the truth, over the pixels that count."""
        union = ((mask | self.truth) & ~self.void).sum()
        return float((mask & self.truth & ~self.void).sum() / union) if union else 1.0


class CountedUnet(Closing):
    """An engine that counts the samples which it is given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.spec, self.samples = engine, engine.spec, 0

    def __call__(self, feeds: Mapping[str, Any], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """Run the engine."""
        self.samples += len(feeds["sample"])
        return self.engine(feeds, only=only)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--coarse", is_flag=True, help="Refine the masks in DATA/coarse, not spoilt true masks.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The model.  [default: the shipped `photo`]")
@click.option("--images", type=click.IntRange(min=1), help="Use so many photographs.  [default: all]")
@click.option("--kinds", default=3, show_default=True, help="Ways in which the masks of one photograph are spoilt.")
@click.option("--label", "labels", multiple=True, help="Use masks of this class; may be given again.  [default: all]")
@click.option("--only", multiple=True, help="Measure only this method; may be given again.  [default: all]")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--name", default="photographs", show_default=True, help="Name of the result.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write a sheet of cases before and after.")
def main(
    data: Path, coarse: bool, bundle: Path | None, images: int | None, kinds: int, labels: Sequence[str],
    only: Sequence[str], threads: int, name: str, sheet: Path | None,
) -> None:  # fmt: skip
    """Measure what refining does to photographs."""
    cases = list(read_photographs(data, images, coarse=coarse, kinds=kinds))
    cases = [case for case in cases if not labels or case.label in labels]
    if not cases:
        raise click.UsageError(f"expected photographs with masks in {data}, found none")
    with Refiner.from_bundle(bundle or photo_bundle(), threads=threads) as opened:
        counted = CountedUnet(opened.engines["unet"])
        refiner = opened.derive({"unet": counted})
        methods = {key: run for key, run in _methods(refiner).items() if not only or key in {*only, "coarse"}}
        rows, found = [], {}
        for key, run in methods.items():
            row, found[key] = _measure(key, run, cases, counted)
            rows.append(row)
            click.echo(row, err=True)
    table = [list(map(str, row.values())) for row in rows]
    what = "coarse masks of a network" if coarse else "spoilt true masks"
    markdown = "\n\n".join(
        [
            "# Refining photographs",
            f"{len(cases)} {what} of {len({case.number for case in cases})} photographs. IoU with the true mask; made "
            f"worse: by more than {WORSE}. Model: {bundle.name if bundle else 'photo'}."
            + (f" Classes: {', '.join(labels)}." if labels else ""),
            markdown_table(list(rows[0]), table),
        ]
    )
    click.echo(markdown)
    write_result(name, {"rows": rows, "masks": len(cases)}, markdown)
    if sheet and "default" in found:
        save_image(sheet, _sheet(cases, found["default"]))


def read_pictures(data: Path, images: int | None) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[Any], str]]:
    """The photographs of a data set in VOC's layout: number, image, class indices, and name of the file."""
    folders = [data / "images", data / "JPEGImages"], [data / "masks", data / "SegmentationClass"]
    pictures, truths = (next((each for each in both if each.is_dir()), both[0]) for both in folders)
    files = sorted(truths.glob("*.png"))
    for number, file in enumerate(files[:: max(1, len(files) // images)] if images else files):
        picture = next(iter(pictures.glob(f"{file.stem}.*")), None)
        if picture is not None:
            yield number, np.asarray(Image.open(picture).convert("RGB")), np.asarray(Image.open(file)), file.name


def class_names(data: Path) -> Sequence[str] | None:
    """The names of the class indices, where the data set has them."""
    file = data / "classes.json"
    return json.loads(file.read_text()) if file.is_file() else None


def read_photographs(data: Path, images: int | None, *, coarse: bool, kinds: int) -> Iterator[Photograph]:
    """The coarse masks of a data set in VOC's layout.

    Args:
        data: the folder, see above.
        images: how many photographs, evenly spaced in the order of their names; None for all.
        coarse: read the masks in DATA/coarse, instead of spoiling the true ones.
        kinds: in how many ways the masks of one photograph are spoilt.
    """
    names = class_names(data)
    for number, image, classes, name in read_pictures(data, images):
        if coarse:
            given = np.asarray(Image.open(data / "coarse" / name))
            yield from _network_cases(number, image, classes, given, names)
        else:
            yield from _spoilt_cases(number, image, classes, names, kinds)


def _name(index: int, names: Sequence[str] | None) -> str:
    return names[index] if names else f"class {index}"


def _network_cases(
    number: int, image: NDArray[np.uint8], classes: NDArray[Any], coarse: NDArray[Any], names: Sequence[str] | None
) -> Iterator[Photograph]:
    for index in np.unique(classes):
        if index in (0, VOID):
            continue
        truth, mask = classes == index, coarse == index
        case = Photograph(
            number=number, image=image, coarse=mask.astype(np.float32), truth=truth, void=classes == VOID,
            label=_name(int(index), names), kind="network",
        )  # fmt: skip
        # A mask that misses the object, or has nothing to refine, is no coarse mask.
        if 0.3 <= case.iou(mask) <= 0.95 and not mask.all():
            yield case


def _spoilt_cases(
    number: int, image: NDArray[np.uint8], classes: NDArray[Any], names: Sequence[str] | None, kinds: int
) -> Iterator[Photograph]:
    present = [index for index in np.unique(classes) if index not in (0, VOID)]
    large = [index for index in present if (classes == index).mean() > LEAST_SHARE]
    instances = np.zeros(classes.shape, np.uint8)
    for place, index in enumerate(large, 1):
        instances[classes == index] = place
    labels = [_name(int(index), names) for index in large]
    wanted = [list(CORRUPTIONS)[(kinds * number + k) % len(CORRUPTIONS)] for k in range(kinds)]
    for case in make_cases(image, instances, labels, scene=number, kinds=wanted):
        if not (case.coarse > 0.5).all():
            yield Photograph(
                number=number, image=image, coarse=case.coarse, truth=case.truth, void=classes == VOID,
                label=case.label, kind=case.kind,
            )  # fmt: skip


Method = Callable[[Photograph], Mask]


def _methods(refiner: Refiner) -> dict[str, Method]:
    """The methods by name; ours come last."""
    base = refiner.settings

    def refine(settings: G4SegSettings, *, guard: bool = True) -> Method:
        return lambda case: refiner(case.image, case.coarse, case.label, guard=guard, settings=settings).mask

    def edges(case: Photograph) -> Mask:
        return sharpen(case.image, case.coarse, np.zeros_like(case.coarse), EdgeSettings()) > 0.5

    def edges_before(case: Photograph) -> Mask:
        return sharpen(case.image, case.coarse, np.zeros_like(case.coarse), EdgeSettings(rounds_alone=4)) > 0.5

    no_text = replace(base, text_weight=0.0)
    return {
        "coarse": lambda case: case.coarse > 0.5,
        "GrabCut": lambda case: grabcut(case.image, case.coarse),
        "guided filter": lambda case: guided_filter(case.image, case.coarse),
        "dense CRF": lambda case: dense_crf(case.image, case.coarse),
        "edge step alone, before (4 rounds)": edges_before,
        "edge step alone": edges,
        "default": refine(base),
        "default, no guard": refine(base, guard=False),
        "fast": refine(base.with_preset("fast")),
        "paper": refine(base.with_preset("paper")),
        "paper, no guard": refine(base.with_preset("paper"), guard=False),
        "without text evidence": refine(no_text),
        "without text evidence, no guard": refine(no_text, guard=False),
    }


def _measure(
    name: str, run: Method, cases: Sequence[Photograph], counted: CountedUnet
) -> tuple[dict[str, Any], list[Mask]]:
    """One row of the table, and the masks."""
    counted.samples = 0
    masks, seconds = [], []
    for case in tqdm(cases, desc=name, leave=False):
        began = time.perf_counter()
        masks.append(run(case))
        seconds.append(time.perf_counter() - began)
    before = np.array([case.iou(case.coarse > 0.5) for case in cases])
    after = np.array([case.iou(mask) for case, mask in zip(cases, masks, strict=True)])
    mean = estimate(after, [case.number for case in cases])
    row = {
        "method": name,
        "mean IoU": f"{mean.mean:.3f} ± {mean.standard_error:.3f}",
        "made worse": f"{(after < before - WORSE).mean():.1%}",
        "better": f"{(after > before + WORSE).mean():.1%}",
        "unchanged": f"{np.mean(after == before):.1%}",
        "UNet passes": f"{counted.samples / len(cases):.1f}",
        "s": f"{np.median(seconds):.3f}",
    }
    return row, masks


def _sheet(cases: Sequence[Photograph], masks: Sequence[Mask]) -> NDArray[np.uint8]:
    """Every so many-th case before and after."""
    rows = []
    for place in np.linspace(0, len(cases) - 1, min(SHOWN, len(cases))).astype(int):
        case = cases[place]
        rows.append(
            BeforeAfter(
                image=case.image,
                coarse=case.coarse > 0.5,
                refined=masks[place],
                label=f"{case.label}, {case.kind}",
                iou_before=case.iou(case.coarse > 0.5),
                iou_after=case.iou(masks[place]),
            )  # fmt: skip
        )
    return before_after_sheet(rows)


if __name__ == "__main__":
    main()
