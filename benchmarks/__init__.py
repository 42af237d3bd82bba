"""Speed, memory and quality of segrefine beside its peers; every run writes a table under ``benchmarks/results/``."""
