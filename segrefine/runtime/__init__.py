"""Inference: NumPy and Pillow, and an engine for the networks."""
