"""TensorRT and TensorRT-RTX as backends: engines built ahead of time, then run without torch.

`build` makes engines, in the process of `builder`. `engine` runs them, on what `runtime` loads.
"""

from segrefine.engines.tensorrt.options import LIBRARIES, Library, Plugins, TensorRtOptions

__all__ = ["LIBRARIES", "Library", "Plugins", "TensorRtOptions"]
