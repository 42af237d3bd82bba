"""Plain export, as optimum makes it: whole graphs, attention in standard ops with the bias written out.

`PlainG4Seg` runs the method on such graphs as the reference's code reads, one call of the UNet for each noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from benchmarks.torch_peer import OncePlainG4Seg
from segrefine.export.graph import export_graph
from segrefine.export.modules import GRAPHS, GraphSource
from segrefine.export.storage import WeightFile
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint
from segrefine.reference.g4seg import Strengths
from segrefine.reference.text import Text
from segrefine.settings import G4SegSettings

COMPONENTS = ("text_encoder", "vae_encoder", "unet")
_SIZES = {"batch": 2, "height": 17, "width": 19, "pixels": 323, "tokens": 7}
Session = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def export_plain(checkpoint: Path, folder: Path, taps: tuple[str, ...]) -> None:
    """Writes the graphs into a folder; done already, it is left as it is."""
    for name in COMPONENTS:
        path = folder / name / "model.onnx"
        if path.exists():
            continue
        source = GraphSource(checkpoint=load_checkpoint(checkpoint), attend=attend_naive, taps=taps)
        image = {side: 8 * _SIZES[side.removeprefix("image_")] for side in ("image_height", "image_width")}
        model = export_graph(GRAPHS[name](source), _SIZES | image, opset=23)
        path.parent.mkdir(parents=True, exist_ok=True)
        WeightFile(path.with_name("model.onnx_data")).take(model)
        ir.save(model, path)


def open_onnxruntime(path: Path, threads: int) -> Session:
    """A graph in ONNX Runtime as it comes, but for the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def open_openvino(path: Path, threads: int) -> Session:
    """A graph in OpenVINO as it comes, but for the threads: it chooses the precision itself."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
    return lambda feeds: {port.any_name: values for port, values in compiled(dict(feeds)).items()}


@dataclass(frozen=True, kw_only=True)
class _PlainCheckpoint(Checkpoint):
    """The model, its image and text encoders on sessions."""

    sessions: Mapping[str, Session]

    def encode_image(self, image: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w)."""
        return torch.from_numpy(self.sessions["vae_encoder"]({"sample": image.numpy()})["latent_sample"])

    def encode_text(self, texts: Sequence[str], size: Sequence[int]) -> Text:
        """The text encoder's states."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="np").input_ids
        states = self.sessions["text_encoder"]({"input_ids": ids.astype(np.int64)})["last_hidden_state"]
        return {"encoder_hidden_states": torch.from_numpy(states)}


class PlainG4Seg(OncePlainG4Seg):
    """The reference's loop on a plain export.

    Args:
        checkpoint: where tokenizer and schedule come from.
        folder: see `export_plain`.
        settings: the method's numbers.
        taps: see `G4Seg`.
        open_session: what runs a graph.
    """

    def __init__(
        self,
        checkpoint: Path,
        folder: Path,
        settings: G4SegSettings,
        taps: tuple[str, ...],
        open_session: Callable[[Path], Session],
    ) -> None:
        opened = load_checkpoint(checkpoint)
        super().__init__(opened, settings, taps)
        self.sessions = {name: open_session(folder / name / "model.onnx") for name in COMPONENTS}
        fields = {name: getattr(opened, name) for name in Checkpoint.__dataclass_fields__}
        self.model = _PlainCheckpoint(**fields, sessions=self.sessions)

    def predict(
        self, sample: Tensor, t: int, text: Text, p: Tensor | None = None, strengths: Strengths = (0.0, 0.0)
    ) -> Tensor:
        """The UNet's output (B, c, h, w)."""
        return torch.from_numpy(self._run(sample, t, text, p, strengths)["out_sample"])

    def features(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Descriptors (1, N, C)."""
        t = self.settings.feature_timestep
        return torch.from_numpy(self._run(self.add_noise(latents, t, noise[:1]), t, self.prompt)["features"])

    def _run(
        self, sample: Tensor, t: int, text: Text, p: Tensor | None = None, strengths: Strengths = (0.0, 0.0)
    ) -> Mapping[str, Any]:
        batch = len(sample)
        foreground = torch.zeros(1, 1, *sample.shape[2:]) if p is None else p
        feeds = {
            "sample": sample,
            "timestep": torch.full((batch,), t),
            "encoder_hidden_states": text["encoder_hidden_states"].expand(batch, -1, -1),
            "foreground": foreground.expand(batch, -1, -1, -1),
            "token_indicator": self.indicator.expand(batch, -1, -1),
            "strength": torch.tensor([strengths]).expand(batch, -1),
        }
        return self.sessions["unet"]({name: np.ascontiguousarray(each) for name, each in feeds.items()})
