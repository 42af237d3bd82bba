"""ONNX Runtime: `backend` is its object in the table, `engine` runs graphs, on sessions of `session`."""
