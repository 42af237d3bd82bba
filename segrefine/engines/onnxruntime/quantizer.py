"""ONNX Runtime's quantizer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segrefine.engines.engine import Feeds

_OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "DedicatedQDQPair": False}


class OnnxRuntimeQuantizer:
    """Writes pairs of quantizing and dequantizing operators around products; see `Quantizer`."""

    operators: tuple[str, ...] = ("Conv", "Gemm", "MatMul")

    def measure_ranges(self, graph: Path, feeds: Sequence[Feeds]) -> Any:
        """Measure ranges; see `Quantizer`."""
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        with _quiet():
            calibrator = create_calibrator(
                str(graph),
                list(self.operators),
                augmented_model_path=str(graph.with_suffix(".augmented.onnx")),
                calibrate_method=CalibrationMethod.MinMax,
                use_external_data_format=True,
                extra_options={"symmetric": True},
            )
            calibrator.collect_data(_Reader(feeds))
            return calibrator.compute_data()

    def quantize(self, graph: Path, ranges: Any, nodes: Sequence[str]) -> Any:
        """Quantize a graph; see `Quantizer`."""
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with _quiet():
            quantizer = QDQQuantizer(
                onnx.load(graph),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges,
                nodes_to_quantize=list(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=list(self.operators),
                extra_options=_OPTIONS,
            )
            quantizer.quantize_model()
        return quantizer.model.model

    def compute(self, graph: Path, names: Sequence[str], feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Compute tensors; see `Quantizer`."""
        import onnx
        import onnxruntime

        model = onnx.load(graph)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "watched.onnx"
            onnx.save(model, path, save_as_external_data=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))


class _Reader:
    """Samples, as the calibrator reads them."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next sample."""
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the quantizer's advice, which concerns graphs of another kind."""
    logger, level = logging.getLogger(), logging.getLogger().level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
