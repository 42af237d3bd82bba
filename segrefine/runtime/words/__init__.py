"""Captions, prompts and token ids."""
