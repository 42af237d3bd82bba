"""Training of the models that ship with segrefine. Not part of the wheel."""
