"""PyTorch → ONNX: a checkpoint becomes a bundle of graphs, each held against torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segrefine.export.bundle_export import export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    """Import PyTorch when `export_bundle` is first asked for: to find a model takes none."""
    if name != "export_bundle":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segrefine.export import bundle_export

    return bundle_export.export_bundle
