"""TensorRT and TensorRT-RTX: engines built ahead of time, then run without torch.

`backend` has their two objects in the table. `build` makes engines, in the process of `builder`. `engine` runs them, on
what `runtime` loads.
"""
