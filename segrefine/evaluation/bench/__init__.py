"""Whole benchmarks: predictions, their protocol, comparisons, published figures, and a report that can be cited."""
