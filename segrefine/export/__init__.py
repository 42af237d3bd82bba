"""PyTorch → ONNX: a checkpoint becomes a bundle of graphs, each held against torch."""

from segrefine.export.bundle_export import export_bundle

__all__ = ["export_bundle"]
