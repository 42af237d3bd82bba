"""OpenVINO: `backend` is its object in the table, `engine` runs graphs, which `graphs` reads and writes."""
