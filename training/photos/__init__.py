"""The text-to-image model `photo`: its photographs, its words, its training."""
