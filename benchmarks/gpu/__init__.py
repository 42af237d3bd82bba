"""Checks that need a GPU; `make gpu` runs all of them, and says so if there is none."""
