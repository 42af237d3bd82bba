"""Arrays in, arrays out: filters, edges, grids and measures. Nothing here knows a file or a model."""
