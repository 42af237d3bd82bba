"""Recipes of TensorRT engines: what names them, and what builds them again."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from typing import Any

from segrefine.bundle import Bundle
from segrefine.engines.options import BuildOptions
from segrefine.engines.recipe import EngineRecipe, build_command
from segrefine.errors import EngineError

_PROFILE = re.compile(r"\w+=\d+(:\d+:\d+)?(,\w+=\d+(:\d+:\d+)?)*")
_GPUS = re.compile(r"sm\d{2,}(-sm\d{2,})*")


class TensorRtRecipe(EngineRecipe):
    """Recipe of an engine of TensorRT or TensorRT-RTX. Its options are on the command line too."""

    suffix = ".engine"

    @property
    def limits(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """The smallest sizes of `profile`, those that it is tuned to, and the largest, by symbol."""
        sizes = [size.partition("=")[::2] for size in self.profile.split(",")]
        smallest, tuned, largest = (
            {symbol: int((3 * limits.split(":"))[index]) for symbol, limits in sizes} for index in range(3)
        )
        return smallest, tuned, largest

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """The GPUs of `hardware`, such as ("8.6", "12.0")."""
        return tuple(f"{each[2:-1]}.{each[-1]}" for each in self.hardware.split("-"))

    @property
    def build_options(self) -> BuildOptions:
        """The options that build the engine again."""
        smallest, tuned, largest = self.limits
        known = {each.name for each in fields(BuildOptions)}
        given = {name: value for name, value in self.options.items() if value is not None and name in known}
        return BuildOptions(
            min_shapes=smallest,
            opt_shapes=tuned,
            max_shapes=largest,
            compute_capabilities=self.compute_capabilities if self.backend == "tensorrt-rtx" else (),
            **given,
        )

    @classmethod
    def rebuild_all_command(cls, bundle: Bundle, backend: str, device: str) -> str:
        """The command that builds a bundle's engines again, for the GPU here."""
        return build_command(bundle, backend)

    def rebuild_command(self, bundle: Bundle) -> str:
        """The command that builds the engine again."""
        command = super().rebuild_command(bundle)
        for limit, sizes in zip(("min", "opt", "max"), self.limits, strict=True):
            command += f" --{limit}-shapes {','.join(f'{symbol}={size}' for symbol, size in sizes.items())}"
        if self.backend == "tensorrt-rtx":
            command += "".join(f" --compute-capability {each}" for each in self.compute_capabilities)
        for name, value in self._given_options().items():
            command += f" --{shlex.quote(name)}" + ("" if value is True else f" {shlex.quote(str(value))}")
        return command

    def check_form(self) -> None:
        """Check profile and GPUs, of which commands are made.

        Raises:
            EngineError: one has another form.
        """
        if not (_PROFILE.fullmatch(self.profile) and _GPUS.fullmatch(self.hardware)):
            raise EngineError(
                subject="its sidecar",
                expected="a profile and GPUs as build-engine writes them",
                got=f"{self.profile!r} and {self.hardware!r}",
            )

    def _mark(self) -> str:
        given = self._given_options().items()
        return "".join(f"_{name}" if value is True else f"_{name}-{value}" for name, value in given)

    def _given_options(self) -> dict[str, Any]:
        """The options that differ from the default, by their names on the command line. A flag's value is True."""
        chosen = {name: value for name, value in self.options.items() if value is not None and value is not False}
        return {name.replace("_", "-"): value for name, value in chosen.items()}
