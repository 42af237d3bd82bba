"""How good the masks of a data set are: scores against the truth, before and after, and what settings do to them."""
