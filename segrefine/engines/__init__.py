"""ONNX graphs made into engines, and engines run: the only part of segrefine that knows an inference library."""

from segrefine.engines.build import EngineFile, build_engine
from segrefine.engines.engine import BACKENDS, BUILDERS, Closing, Engine, EnginePrecision
from segrefine.engines.load import load_engine
from segrefine.engines.tensorrt import TensorRtOptions

__all__ = [
    "BACKENDS",
    "BUILDERS",
    "Closing",
    "Engine",
    "EngineFile",
    "EnginePrecision",
    "TensorRtOptions",
    "build_engine",
    "load_engine",
]
