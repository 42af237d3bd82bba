"""Serving by Triton Inference Server: a model repository of a bundle, and what its Python backend runs there."""
