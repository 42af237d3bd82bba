"""Benchmarks of the service; `benchmarks.soak` runs them all."""
