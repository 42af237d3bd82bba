"""PyTorch → ONNX: a checkpoint becomes a bundle of graphs, each held against torch."""

from segrefine.export.bundle_export import DEFAULT_TAPS, export_bundle

__all__ = ["DEFAULT_TAPS", "export_bundle"]
