"""What runs at inference: NumPy, Pillow and `tokenizers`, and an engine for the networks."""
