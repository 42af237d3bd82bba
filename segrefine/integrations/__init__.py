"""Doors to the tools that people already work in. Each calls the operations of `segrefine.runtime`, and adds none."""
