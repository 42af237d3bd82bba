"""GPU kernels of the custom ops, for TensorRT to use instead of their ONNX functions where that pays."""
