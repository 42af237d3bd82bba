"""The HTTP service: `create_app` makes it, `run_server` runs it until a signal."""
