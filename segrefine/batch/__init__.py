"""Whole data sets, refined by several processes that may be killed at any moment."""
