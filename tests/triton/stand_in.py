"""The part of Triton's `triton_python_backend_utils` that models use, for running one without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Tensor:
    name: str
    values: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.values


@dataclass
class TritonError:
    message: str
    code: int

    INTERNAL, INVALID_ARG = 1, 3


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None

    def __getitem__(self, name: str) -> NDArray[Any]:
        assert not self.error, self.error
        return {each.name: each.values for each in self.output_tensors}[name]


@dataclass
class Request:
    tensors: Mapping[str, NDArray[Any]]
    wanted: list[str] = field(default_factory=lambda: ["mask", "probability", "masks", "probabilities", "uncertainty"])

    def requested_output_names(self) -> list[str]:
        return self.wanted


class Logger:
    lines: list[str] = []

    @classmethod
    def log_error(cls, text: str) -> None:
        cls.lines.append(text)


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return Tensor(name, np.asarray(request.tensors[name])) if name in request.tensors else None
