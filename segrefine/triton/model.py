"""Model for Triton's Python backend. Its own module exists only within its server, so that model.py hands it over."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from segrefine.bundle import Bundle, Method
from segrefine.engines import EngineOptions
from segrefine.errors import ImageError, MaskError, PromptError, SettingsError
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from segrefine.triton.compute import Arrays, Outcome, find_requests, refine_requests, segment_requests
from segrefine.triton.config import signature_of
from segrefine.triton.repository import BUNDLE

_CLIENTS_ERRORS = (ImageError, MaskError, PromptError, SettingsError)


class TritonModel:
    """One instance of a model, in a process of its own.

    Attributes:
        backend: Triton's module `triton_python_backend_utils`.
    """

    backend: ClassVar[Any]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Opens the bundle that lies beside model.py.

        Args:
            args: `model_config` (JSON), `model_repository` (the model's folder), `model_version`,
                `model_instance_kind` and `model_instance_device_id`.

        Raises:
            SegrefineError: see `Refiner.from_bundle`; Triton then does not serve the model, and tells the message.
        """
        given = json.loads(args["model_config"])["parameters"]
        options = {name: each["string_value"] for name, each in given.items()}
        on_gpu = args["model_instance_kind"] == "GPU"
        engines = EngineOptions(
            backend=options["backend"],
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            precision=options.get("precision"),
            threads=int(options["threads"]) if "threads" in options else None,
        )
        folder = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        manifest, zero_shot = Bundle.open(folder).manifest, "zero_shot" in options
        self._tensors = signature_of(manifest, zero_shot).inputs
        with ExitStack() as stack:
            self._answer = _open(PipelineSetup(bundle=folder, engines=engines), manifest.method, zero_shot, stack)
            self._opened = stack.pop_all()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """The response to each request, in their order; a request that fails does not take the others along."""
        given = []
        for request in requests:
            names = (tensor.name for tensor in self._tensors)
            tensors = {name: self.backend.get_input_tensor_by_name(request, name) for name in names}
            given.append({name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None})
        outcomes = self._answer(given)
        pairs = zip(requests, outcomes, strict=True)
        return [self._respond(outcome, request.requested_output_names()) for request, outcome in pairs]

    def finalize(self) -> None:
        """Closes the engines."""
        self._opened.close()

    def _respond(self, outcome: Outcome, wanted: Sequence[str]) -> Any:
        if isinstance(outcome, Exception):
            return self.backend.InferenceResponse(output_tensors=[], error=self._error(outcome))
        tensors = [self.backend.Tensor(name, values) for name, values in outcome.items() if name in wanted]
        return self.backend.InferenceResponse(output_tensors=tensors)

    def _error(self, error: Exception) -> Any:
        """The error as Triton tells it: what a client can mend, or a failure, whose cause is logged."""
        kind = self.backend.TritonError
        if isinstance(error, _CLIENTS_ERRORS):
            return kind(f"{error}; {error.hint}" if error.hint else str(error), kind.INVALID_ARG)
        self.backend.Logger.log_error("".join(traceback.format_exception(error)))
        return kind(f"segrefine failed: {type(error).__name__}: {error}", kind.INTERNAL)


def _open(
    setup: PipelineSetup, method: Method, zero_shot: bool, stack: ExitStack
) -> Callable[[Sequence[Arrays]], list[Outcome]]:
    """Open the engines, which `stack` closes; give the function that answers requests."""
    if method == "gs":
        return partial(segment_requests, stack.enter_context(Segmenter.from_setup(setup)))
    refiner = stack.enter_context(Refiner.from_setup(setup))
    if not zero_shot:
        return partial(refine_requests, refiner)
    finder = stack.enter_context(ZeroShotSegmenter.beside(refiner, setup.engines))
    return partial(find_requests, finder, refiner)
