"""The label diffusion model that is trained: opened, rebuilt, and written as a checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.assets import demo_gs_checkpoint
from segrefine.errors import SettingsError
from segrefine.reference.checkpoint import LabelCheckpoint, ModelParts, load_checkpoint, load_label_checkpoint
from segrefine.reference.configs import is_label_checkpoint
from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec
from segrefine.reference.weight_files import Model, SingleFile
from segrefine.train import surgery
from segrefine.train.adapters import merged
from segrefine.train.options import TrainOptions
from segrefine.train.templates import list_words

TINY = "tiny"
"""The word for a model that is trained from nothing."""
_AREA_SCALE = 0.25
"""Latents of an area codec lie in ± this; neighbouring cells agree, so noise hides them less than an image."""


@dataclass(kw_only=True)
class LabelModel:
    """A label diffusion model whose networks can be trained.

    Attributes:
        checkpoint: gives the live networks, in the form that sampling takes.
        parts: the networks by the names of their folders.
        tokenizer_folders: files of each tokenizer.
        side: longer image side in pixels.
        new_words: words that got tokens of their own.
    """

    checkpoint: LabelCheckpoint
    parts: dict[str, nn.Module]
    tokenizer_folders: Mapping[str, Path]
    side: int
    new_words: Sequence[str] = field(default_factory=list)

    @property
    def denoiser(self) -> UNet2DConditionModel:
        """The label denoiser."""
        return cast(UNet2DConditionModel, self.parts["label_denoiser"])

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The text encoders by the names of their folders."""
        return {name: part for name, part in self.parts.items() if name.startswith("text_encoder")}

    @property
    def multiple(self) -> int:
        """Pixels of the coarsest cell of the networks along one side."""
        levels = len(self.denoiser.config.block_out_channels)
        return int(self.checkpoint.vae_scale_factor * 2 ** (levels - 1))

    def write(self, folder: Path) -> None:
        """Write the checkpoint to `folder`, in half precision, adapters merged. Nothing in it is half-written.

        Args:
            folder: target; what is there is replaced at the end.
        """
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, part in self.parts.items():
            merged(copy.deepcopy(part)).half().save_pretrained(partial / name)
        for name, source in self.tokenizer_folders.items():
            shutil.copytree(source, partial / name)
        _write_json(partial / "scheduler" / "scheduler_config.json", self.checkpoint.scheduler_config)
        write_codec(self.checkpoint.codec, partial)
        _write_json(partial / "model_index.json", self._model_index())
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def _model_index(self) -> dict[str, Any]:
        libraries = {"label_denoiser": "diffusers", "vae": "diffusers"}
        index: dict[str, Any] = {"_class_name": "LabelDiffusionPipeline"}
        for name, part in self.parts.items():
            index[name] = [libraries.get(name, "transformers"), type(part).__name__]
        index |= {name: ["transformers", "CLIPTokenizer"] for name in self.tokenizer_folders}
        return index | {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "label_codec": ["segrefine", type(self.checkpoint.codec).__name__],
        }


def open_model(found: Model | None, options: TrainOptions, classes: Sequence[str], scratch: Path) -> LabelModel:
    """The model that a run starts from.

    Args:
        found: a checkpoint; None for a new tiny model.
        options: what becomes of it.
        classes: class names of the data.
        scratch: folder for the tokenizers' files.

    Raises:
        SettingsError: an option does not fit the model.
        ExportError: the checkpoint cannot be read.
    """
    torch.manual_seed(options.seed)  # new weights
    if found is None:
        opened: ModelParts = _new_tiny()
    elif is_label_checkpoint(found):
        opened = load_label_checkpoint(found)
    else:
        opened = load_checkpoint(found)
    parts = {name: _loosen(opened.load(name)) for name in _part_names(opened)}
    denoiser = parts["label_denoiser" if isinstance(opened, LabelCheckpoint) else "unet"]
    codec = _choose_codec(opened, options, parts["vae"])
    _fit_denoiser(cast(UNet2DConditionModel, denoiser), opened, codec)
    named = {"vae": parts["vae"], "label_denoiser": denoiser} | {
        name: part for name, part in parts.items() if name.startswith("text_encoder")
    }
    prediction = options.prediction or (opened.prediction_type if isinstance(opened, LabelCheckpoint) else "sample")
    folders, new = _tokenizers(opened, found, options, classes, scratch, named)
    tokenizers = {name: CLIPTokenizer.from_pretrained(path, local_files_only=True) for name, path in folders.items()}
    checkpoint = LabelCheckpoint(
        model=opened.model,
        load=named.__getitem__,
        configs={name: dict(part.config) if name in ("vae", "label_denoiser") else part.config.to_dict()
                 for name, part in named.items()},
        tokenizers=tokenizers,
        scheduler_config=surgery.label_schedule(opened.scheduler_config, prediction),
        model_index={},
        family=opened.family,
        codec=codec,
    )  # fmt: skip
    side = options.side or int(denoiser.config.sample_size) * checkpoint.vae_scale_factor
    model = LabelModel(checkpoint=checkpoint, parts=named, tokenizer_folders=folders, side=side, new_words=new)
    if side % model.multiple:
        raise SettingsError(
            f"side: expected a multiple of {model.multiple} pixels for this model, got {side}",
            hint=f"such as --side {max(1, round(side / model.multiple)) * model.multiple}",
        )
    model.denoiser.register_to_config(sample_size=side // checkpoint.vae_scale_factor)
    return model


def _new_tiny() -> LabelCheckpoint:
    """A new tiny model; only words are taken from the demo's."""
    demo = load_label_checkpoint(demo_gs_checkpoint())
    text_encoder = cast(CLIPTextModel, _loosen(demo.load("text_encoder")))
    _shorten_text(text_encoder, surgery.TINY_TOKENS)
    made: dict[str, nn.Module] = {
        "vae": surgery.new_tiny_vae(),
        "label_denoiser": surgery.new_tiny_denoiser(),
        "text_encoder": text_encoder,
    }
    return LabelCheckpoint(
        model=demo.model,
        load=made.__getitem__,
        configs={name: dict(part.config) if name != "text_encoder" else {} for name, part in made.items()},  # type: ignore[arg-type]
        tokenizers=demo.tokenizers,
        scheduler_config=demo.scheduler_config,
        model_index={},
        codec=AreaCodec(fold=surgery.TINY_FOLD, scale=_AREA_SCALE, vae_scale_factor=8),
    )


def _shorten_text(encoder: CLIPTextModel, tokens: int) -> None:
    """Have a text encoder take fewer tokens, in place."""
    embeddings = encoder.embeddings if hasattr(encoder, "embeddings") else encoder.text_model.embeddings
    places = nn.Embedding(tokens, embeddings.position_embedding.embedding_dim)
    places.weight.data = embeddings.position_embedding.weight.data[:tokens].clone()
    embeddings.position_embedding, embeddings.position_ids = places, torch.arange(tokens)[None]
    encoder.config.max_position_embeddings = tokens


def _part_names(opened: ModelParts) -> list[str]:
    denoiser = "label_denoiser" if isinstance(opened, LabelCheckpoint) else "unet"
    return [denoiser, "vae", *(kind.part for kind in opened.family.text_encoders)]


def _loosen(part: nn.Module) -> nn.Module:
    """A network whose weights are float32 and its own, not mapped from a file."""
    for parameter in part.parameters():
        parameter.data = parameter.data.detach().to(torch.float32, copy=True)
    return part.float().requires_grad_(False)


def _choose_codec(opened: ModelParts, options: TrainOptions, vae: nn.Module) -> AreaCodec | VaeCodec:
    own = opened.codec if isinstance(opened, LabelCheckpoint) else None
    if options.codec is None and options.fold is None and own is not None:
        return VaeCodec(vae=vae, scale=own.scale) if isinstance(own, VaeCodec) else own  # type: ignore[arg-type]
    if options.codec == "vae":
        return VaeCodec(vae=vae, scale=1.0)  # type: ignore[arg-type]
    factor = opened.vae_scale_factor
    fold = options.fold or min(factor, 4)
    if factor % fold:
        raise SettingsError(f"fold: expected a number that divides the model's {factor} pixels, got {fold}")
    return AreaCodec(fold=fold, scale=_AREA_SCALE, vae_scale_factor=factor)


def _fit_denoiser(denoiser: UNet2DConditionModel, opened: ModelParts, codec: AreaCodec | VaeCodec) -> None:
    """Give the denoiser the codec's channels, unless it has them."""
    old = opened.codec.channels if isinstance(opened, LabelCheckpoint) else 0
    image = int(opened.configs["vae"]["latent_channels"])
    same = isinstance(opened, LabelCheckpoint) and type(opened.codec) is type(codec) and old == codec.channels
    if not same:
        keeps = "label" if isinstance(codec, VaeCodec) else "image"
        surgery.replace_ends(denoiser, label=codec.channels, image=image, kept=old, keeps=keeps)


def _tokenizers(
    opened: ModelParts,
    found: Model | None,
    options: TrainOptions,
    classes: Sequence[str],
    scratch: Path,
    named: Mapping[str, nn.Module],
) -> tuple[dict[str, Path], list[str]]:
    """Folders with the tokenizers' files, and the words that are new in them."""
    source = demo_gs_checkpoint() if found is None else found.config if isinstance(found, SingleFile) else Path(found)
    folders, new = {}, []
    for kind in opened.family.text_encoders:
        folder, target = source / kind.tokenizer, scratch / kind.tokenizer
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        small = len(opened.tokenizers[kind.tokenizer].get_vocab()) < surgery.SMALL_VOCABULARY
        if small and options.new_words:
            encoder = cast(CLIPTextModel, named[kind.part])
            new = surgery.learn_words(folder, target, list_words(classes), encoder, options.seed)
        if found is None:
            config = json.loads((target / "tokenizer_config.json").read_text("utf-8"))
            _write_json(target / "tokenizer_config.json", config | {"model_max_length": surgery.TINY_TOKENS})
        folders[kind.tokenizer] = target
    return folders, new


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
