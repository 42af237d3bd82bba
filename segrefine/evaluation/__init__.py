"""Quality of the masks of a data set: scores against the truth, before and after, and the effect of settings."""
