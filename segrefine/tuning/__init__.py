"""Fitting the guard and the settings to a model, on images with true masks."""
