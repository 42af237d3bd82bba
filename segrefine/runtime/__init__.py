"""What runs at inference: NumPy and Pillow, and an engine for the networks."""
