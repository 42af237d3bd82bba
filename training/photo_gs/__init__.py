"""The start of `photo-gs`. `segrefine train` does the training."""
