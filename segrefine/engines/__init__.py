"""ONNX graphs made into engines, and engines run: the only part of segrefine that knows an inference library."""

from segrefine.engines.build import EngineFile, build_engine
from segrefine.engines.choice import AUTO, choose_backend
from segrefine.engines.engine import BACKENDS, CPU_BACKENDS, Closing, Engine, EnginePrecision, cut_batch, needs_gpu
from segrefine.engines.hardware import usable_cores
from segrefine.engines.load import built_options, check_choice, load_engine, load_engines, peak_memory, served_sizes
from segrefine.engines.tensorrt import TensorRtOptions

__all__ = [
    "AUTO",
    "BACKENDS",
    "CPU_BACKENDS",
    "Closing",
    "Engine",
    "EngineFile",
    "EnginePrecision",
    "TensorRtOptions",
    "build_engine",
    "built_options",
    "check_choice",
    "choose_backend",
    "cut_batch",
    "load_engine",
    "load_engines",
    "needs_gpu",
    "peak_memory",
    "served_sizes",
    "usable_cores",
]
