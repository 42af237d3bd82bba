"""The one table of protocols."""

from __future__ import annotations

from segrefine.errors import SettingsError
from segrefine.evaluation.protocols.borders import Big
from segrefine.evaluation.protocols.classes import MMSEG, USUAL, ClassProtocol
from segrefine.evaluation.protocols.expressions import Grefcoco, Refcoco
from segrefine.evaluation.protocols.narratives import PngBcv, PngPpmn
from segrefine.evaluation.protocols.protocol import OfficialProtocol

FULL = "full"
"""The measures of `segrefine eval` without a protocol: at full size, hard, and not comparable with published tables."""


def _of_classes(name: str, described: str, classes: str, *, background: bool, source: str = MMSEG) -> OfficialProtocol:
    absent = source is MMSEG
    return ClassProtocol(name, described, classes, with_background=background, absent_count=absent, source=source)


PROTOCOLS: dict[str, OfficialProtocol] = {
    protocol.name: protocol
    for protocol in (
        PngBcv(),
        PngPpmn(),
        Refcoco(),
        Grefcoco(),
        Big(),
        _of_classes("voc", "PASCAL VOC 2012", "voc", background=True, source=USUAL),
        _of_classes("voc20", "PASCAL VOC 2012 without background", "voc20", background=False),
        _of_classes("context", "PASCAL Context, 59 classes", "context59", background=False),
        _of_classes("context60", "PASCAL Context with background", "context60", background=True),
        _of_classes("coco-object", "COCO-Object", "coco-object", background=True),
        _of_classes("coco-stuff", "COCO-Stuff", "coco-stuff", background=False),
        _of_classes("ade20k", "ADE20K", "ade20k", background=False),
        _of_classes("cityscapes", "Cityscapes", "cityscapes", background=False),
    )
}
"""Every protocol by its name."""


def find_protocol(name: str) -> OfficialProtocol | None:
    """The protocol of a name; None for `full`.

    Raises:
        SettingsError: there is none.
    """
    if name == FULL:
        return None
    if name not in PROTOCOLS:
        raise SettingsError(
            f"there is no protocol {name!r}", hint=f"protocols are {', '.join(PROTOCOLS)}, and {FULL}"
        )  # fmt: skip
    return PROTOCOLS[name]
