"""The protocols of published benchmarks: each resizes, thresholds, counts and groups as its official code does."""
