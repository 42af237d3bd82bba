"""Training of label diffusion models on one's own data: `segrefine train`. Needs the extra `[train]`."""
