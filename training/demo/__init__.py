"""The demo model: its scenes, its networks, its training."""
