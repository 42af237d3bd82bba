"""Help texts of options that list backends, filled in from the table of backends when they are shown."""

from __future__ import annotations

from string import Formatter

import click


class BackendOption(click.Option):
    """An option whose help has fields for names of backends.

    `{backends}` lists all; `{default}` is the default; `{gpu_only}` lists those that run on GPUs only; `{bf16}` those
    that compute in bfloat16. Any other field is the name of an option in `BuildOptions`, and lists the backends that
    take it. The table of backends is not imported before the help is shown.
    """

    @property
    def help(self) -> str | None:
        """The help text, its fields filled in."""
        return _fill(self._template) if self._template else None

    @help.setter
    def help(self, template: str | None) -> None:
        self._template = template


def default_backend() -> str:
    """The backend that runs where nothing better is known."""
    from segrefine.engines import DEFAULT

    return DEFAULT.name


def _fill(template: str) -> str:
    fields = {field for _, field, _, _ in Formatter().parse(template) if field}
    return template.format(**{field: ", ".join(_names_for(field)) for field in fields})


def _names_for(field: str) -> list[str]:
    from segrefine import engines

    if field == "backends":
        return list(engines.BACKENDS)
    if field == "default":
        return [default_backend()]
    if field == "gpu_only":
        return [each.name for each in engines.BACKENDS.values() if "cpu" not in each.devices]
    return engines.with_precision("bf16") if field == "bf16" else engines.taking(field)
