"""The backends that tests run over."""

from segrefine.engines import BACKENDS

CPU_BACKENDS = tuple(name for name, backend in BACKENDS.items() if "cpu" in backend.devices)
"""Names of the backends that need no GPU."""
