"""The methods in PyTorch, in the clearest code: the oracle for every engine."""
