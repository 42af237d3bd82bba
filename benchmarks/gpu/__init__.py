"""What only a GPU can show; `make gpu` runs all of it, and says so where there is none."""
