"""The one table of benchmarks: data, protocols, and what has been published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from segrefine.errors import SettingsError

Kind = Literal["classes", "objects", "phrases"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures of one method, in percent.

    Attributes:
        method: its name.
        split: the split that they are of.
        figures: by the titles that the protocol's table has.
        source: where they were read.
    """

    method: str
    split: str
    figures: Mapping[str, float]
    source: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """One benchmark.

    Attributes:
        name: what users call it.
        title: its full name.
        kind: whether its masks are of classes, of objects, or of phrases.
        protocols: names of the protocols that judge it, the most usual first; none for borders alone.
        classes: name of its class list; None where it has none.
        published: figures to compare with.
    """

    name: str
    title: str
    kind: Kind
    protocols: Sequence[str] = ()
    classes: str | None = None
    published: Sequence[Published] = field(default_factory=tuple)


_PNG, _PPMN = "github.com/BCV-Uniandes/PNG, README.md", "github.com/dzh19990407/PPMN, README.md"
_LAVT, _RELA = "github.com/yz93/LAVT-RIS, README.md", "github.com/henghuiding/ReLA, README.md"
_TOCO, _CLIP_ES = "github.com/rulixiang/ToCo, README.md", "github.com/linyq2117/CLIP-ES, README.md"


def _narratives(method: str, source: str, *values: float) -> Published:
    titles = ("AR overall", "AR things", "AR stuff", "AR singulars", "AR plurals")
    return Published(method=method, split="val2017", figures=dict(zip(titles, values, strict=False)), source=source)


def _lavt(split: str, *values: float) -> Published:
    titles = ("P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "oIoU", "mIoU")
    return Published(method="LAVT", split=split, figures=dict(zip(titles, values, strict=True)), source=_LAVT)


def _miou(method: str, split: str, value: float, source: str) -> Published:
    return Published(method=method, split=split, figures={"mIoU": value}, source=source)


def _maps(name: str, title: str, classes: str) -> BenchmarkSpec:
    """A benchmark of label maps without figures to compare with."""
    return BenchmarkSpec(name=name, title=title, kind="classes", protocols=(name,), classes=classes)


BENCHMARKS = {
    each.name: each
    for each in (
        BenchmarkSpec(
            name="voc", title="PASCAL VOC 2012", kind="classes", protocols=("voc",), classes="voc",
            published=(
                _miou("CLIP-ES, activation maps", "train", 70.8, _CLIP_ES),
                _miou("CLIP-ES, with CRF", "train", 75.0, _CLIP_ES),
                _miou("ToCo, ViT-B", "val", 69.2, _TOCO),
                _miou("ToCo, ViT-B, multi-scale and CRF", "val", 71.1, _TOCO),
                _miou("CLIP-ES, DeepLabV2", "val", 71.1, _CLIP_ES),
                _miou("CLIP-ES, DeepLabV2 trained on COCO", "val", 73.8, _CLIP_ES),
            ),
        ),
        _maps("voc20", "PASCAL VOC 2012 without background", "voc20"),
        _maps("context", "PASCAL Context, 59 classes", "context59"),
        _maps("context60", "PASCAL Context with background", "context60"),
        BenchmarkSpec(
            name="coco-object", title="COCO-Object", kind="classes", protocols=("coco-object",), classes="coco-object",
            published=(
                _miou("ToCo, DeiT-B, multi-scale and CRF", "val2014", 41.3, _TOCO),
                _miou("CLIP-ES, DeepLabV2", "val2014", 45.4, _CLIP_ES),
            ),
        ),
        _maps("coco-stuff", "COCO-Stuff", "coco-stuff"),
        _maps("ade20k", "ADE20K", "ade20k"),
        _maps("cityscapes", "Cityscapes", "cityscapes"),
        BenchmarkSpec(name="davis", title="DAVIS", kind="objects"),
        BenchmarkSpec(name="big", title="BIG", kind="objects", protocols=("big",)),
        BenchmarkSpec(
            name="png", title="Panoptic Narrative Grounding", kind="phrases", protocols=("png-ppmn", "png-bcv"),
            published=(
                _narratives("PNG, oracle", _PNG, 64.4, 67.3, 60.4, 64.8, 60.7),
                _narratives("PNG, baseline", _PNG, 55.4, 56.2, 54.3, 56.2, 48.8),
                _narratives("PPMN", _PPMN, 59.4, 57.2, 62.5, 60.0, 54.0),
            ),
        ),
        BenchmarkSpec(
            name="refcoco", title="RefCOCO", kind="phrases", protocols=("refcoco",),
            published=(
                _lavt("val", 84.46, 80.90, 75.28, 64.71, 34.30, 72.73, 74.46),
                _lavt("testA", 88.07, 85.17, 79.90, 68.52, 35.69, 75.82, 76.89),
                _lavt("testB", 79.12, 74.94, 69.17, 59.37, 34.45, 68.79, 70.94),
            ),
        ),
        BenchmarkSpec(
            name="refcoco+", title="RefCOCO+", kind="phrases", protocols=("refcoco",),
            published=(
                _lavt("val", 74.44, 70.91, 65.58, 56.34, 30.23, 62.14, 65.81),
                _lavt("testA", 80.68, 77.96, 72.90, 62.21, 32.36, 68.38, 70.97),
                _lavt("testB", 65.66, 61.85, 55.94, 47.56, 27.24, 55.10, 59.23),
            ),
        ),
        BenchmarkSpec(
            name="refcocog", title="RefCOCOg, split of UMD", kind="phrases", protocols=("refcoco",),
            published=(
                _lavt("val", 70.81, 65.28, 58.60, 47.49, 22.73, 61.24, 63.34),
                _lavt("test", 71.54, 66.38, 59.00, 48.21, 23.10, 62.09, 63.62),
            ),
        ),
        BenchmarkSpec(
            name="grefcoco", title="gRefCOCO", kind="phrases", protocols=("grefcoco",),
            published=(
                Published(method="ReLA, Swin-B", split="val", figures={"cIoU": 62.42, "gIoU": 63.60}, source=_RELA),
                Published(method="ReLA, Swin-T", split="val", figures={"cIoU": 57.73, "gIoU": 56.86}, source=_RELA),
            ),
        ),
    )
}  # fmt: skip
"""Every benchmark by its name. Published figures are those of the methods' own pages."""


def find_spec(name: str) -> BenchmarkSpec:
    """The benchmark of a name.

    Raises:
        SettingsError: there is none.
    """
    if name not in BENCHMARKS:
        raise SettingsError(f"there is no benchmark {name!r}", hint=f"benchmarks are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
