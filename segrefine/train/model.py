"""The label diffusion model that is trained: opened, rebuilt, and written as a checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.assets import photo_gs_checkpoint
from segrefine.errors import OutputError, SettingsError
from segrefine.reference.checkpoint import LabelCheckpoint, ModelParts, load_checkpoint, load_label_checkpoint
from segrefine.reference.configs import CONTEXT, is_label_checkpoint
from segrefine.reference.image_encoder import FeatureEncoder
from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec
from segrefine.reference.weight_files import Model, SingleFile
from segrefine.storage import output_errors
from segrefine.train import networks, surgery
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
        context: whether phrases of captions are read with the words before them.
    """

    checkpoint: LabelCheckpoint
    parts: dict[str, nn.Module]
    tokenizer_folders: Mapping[str, Path]
    side: int
    new_words: Sequence[str] = field(default_factory=list)
    context: bool = False

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

        Raises:
            OutputError: the disk is full, or the folder cannot be written to.
        """
        partial, old = (folder.with_name(folder.name + end) for end in (".partial", ".old"))
        with _checkpoint_errors(folder):
            shutil.rmtree(partial, ignore_errors=True)
            self._write_parts(partial)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)

    def _write_parts(self, folder: Path) -> None:
        for name, part in self.parts.items():
            whole: Any = merged(copy.deepcopy(part))
            whole = whole.folded() if isinstance(whole, FeatureEncoder) else whole
            whole.half().to(memory_format=torch.contiguous_format).save_pretrained(folder / name)
            forget_origin(folder / name / "config.json")
        for name, source in self.tokenizer_folders.items():
            shutil.copytree(source, folder / name)
        _write_json(folder / "scheduler" / "scheduler_config.json", self.checkpoint.scheduler_config)
        write_codec(self.checkpoint.codec, folder)
        _write_json(folder / "model_index.json", self._model_index())

    def _model_index(self) -> dict[str, Any]:
        libraries = {"label_denoiser": "diffusers", "vae": type(self.parts["vae"]).__module__.partition(".")[0]}
        index: dict[str, Any] = {"_class_name": "LabelDiffusionPipeline"}
        if self.context:
            index[CONTEXT] = True
        for name, part in self.parts.items():
            index[name] = [libraries.get(name, "transformers"), type(part).__name__]
        index |= {name: ["transformers", "CLIPTokenizer"] for name in self.tokenizer_folders}
        return index | {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "label_codec": ["segrefine", type(self.checkpoint.codec).__name__],
        }


@contextmanager
def _checkpoint_errors(folder: Path) -> Iterator[None]:
    """A context in which a checkpoint is written; safetensors wraps the system's refusals in an error of its own."""
    try:
        with output_errors(folder):
            yield
    except SafetensorError as error:
        hint = "free some space; --resume continues from the last state"
        raise OutputError(f"cannot write {folder}: {error}", hint=hint) from error


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
    opened = _open(found)
    parts: dict[str, Any] = {name: _loosen(opened.load(kept_as)) for name, kept_as in _part_names(opened).items()}
    codec = _choose_codec(opened, options, parts["vae"])
    _fit_denoiser(cast(UNet2DConditionModel, parts["label_denoiser"]), opened, codec)
    prediction = options.prediction or (opened.prediction_type if isinstance(opened, LabelCheckpoint) else "sample")
    folders, new = _tokenizers(opened, found, options, classes, scratch, parts)
    checkpoint = LabelCheckpoint(
        model=opened.model,
        load=parts.__getitem__,
        configs={name: dict(part.config) if name in ("vae", "label_denoiser") else part.config.to_dict()
                 for name, part in parts.items()},
        tokenizers={name: CLIPTokenizer.from_pretrained(path, local_files_only=True) for name, path in folders.items()},
        scheduler_config=networks.label_schedule(opened.scheduler_config, prediction),
        model_index={},
        family=opened.family,
        codec=codec,
    )  # fmt: skip
    side = options.side or int(parts["label_denoiser"].config.sample_size) * checkpoint.vae_scale_factor
    model = LabelModel(
        checkpoint=checkpoint, parts=parts, tokenizer_folders=folders, side=side, new_words=new, context=options.context
    )  # fmt: skip
    _fit_side(model)
    return model


def _open(found: Model | None) -> ModelParts:
    """A checkpoint's parts; those of a new tiny model for None."""
    if found is None:
        return _new_tiny()
    return load_label_checkpoint(found) if is_label_checkpoint(found) else load_checkpoint(found)


def _fit_side(model: LabelModel) -> None:
    """Note the side of images in the denoiser's configuration.

    Raises:
        SettingsError: the networks' cells do not divide it.
    """
    if model.side % model.multiple:
        raise SettingsError(
            subject="side",
            expected=f"a multiple of {model.multiple} pixels for this model",
            got=model.side,
            hint=f"such as --side {max(1, round(model.side / model.multiple)) * model.multiple}",
        )
    model.denoiser.register_to_config(sample_size=model.side // model.checkpoint.vae_scale_factor)


def forget_origin(config: Path) -> None:
    """Remove the path of this machine that diffusers notes in a configuration: checkpoints are shared."""
    values = json.loads(config.read_text("utf-8"))
    if values.pop("_name_or_path", None) is not None:
        _write_json(config, values)


def _new_tiny() -> LabelCheckpoint:
    """A new tiny model; only words are taken from one that ships."""
    known = load_label_checkpoint(photo_gs_checkpoint())
    text_encoder = cast(CLIPTextModel, _loosen(known.load("text_encoder")))
    _shorten_text(text_encoder, networks.TINY_TOKENS)
    made: dict[str, Any] = {
        "vae": networks.new_tiny_vae(),
        "label_denoiser": networks.new_tiny_denoiser(),
        "text_encoder": text_encoder,
    }
    return LabelCheckpoint(
        model=known.model,
        load=made.__getitem__,
        configs={name: dict(part.config) if name != "text_encoder" else {} for name, part in made.items()},
        tokenizers=known.tokenizers,
        scheduler_config=known.scheduler_config,
        model_index={},
        codec=AreaCodec(fold=networks.TINY_FOLD, scale=_AREA_SCALE, vae_scale_factor=8),
    )


def _shorten_text(encoder: CLIPTextModel, tokens: int) -> None:
    """Have a text encoder take fewer tokens, in place."""
    inner: Any = encoder if hasattr(encoder, "embeddings") else encoder.text_model
    embeddings = inner.embeddings
    places = nn.Embedding(tokens, embeddings.position_embedding.embedding_dim)
    places.weight.data = embeddings.position_embedding.weight.data[:tokens].clone()
    embeddings.position_embedding, embeddings.position_ids = places, torch.arange(tokens)[None]
    encoder.config.max_position_embeddings = tokens


def _part_names(opened: ModelParts) -> dict[str, str]:
    """The networks of a label diffusion model, by the names that a checkpoint has for them."""
    denoiser = "label_denoiser" if isinstance(opened, LabelCheckpoint) else "unet"
    return {"vae": "vae", "label_denoiser": denoiser} | {kind.part: kind.part for kind in opened.family.text_encoders}


def _loosen(part: nn.Module) -> nn.Module:
    """A network whose weights are float32 and its own, not mapped from a file."""
    for parameter in part.parameters():
        parameter.data = parameter.data.detach().to(torch.float32, copy=True)
    return part.float().requires_grad_(False)


def _choose_codec(opened: ModelParts, options: TrainOptions, vae: Any) -> AreaCodec | VaeCodec:
    own = opened.codec if isinstance(opened, LabelCheckpoint) else None
    if options.codec is None and options.fold is None and own is not None:
        return VaeCodec(vae=vae, scale=own.scale) if isinstance(own, VaeCodec) else own
    if options.codec == "vae" and isinstance(vae, FeatureEncoder):
        raise SettingsError(
            subject="codec",
            expected="area: this model's image encoder makes features, which no decoder turns into masks",
            got="vae",
            hint="leave --codec out",
        )
    if options.codec == "vae":
        return VaeCodec(vae=vae, scale=1.0)
    factor = opened.vae_scale_factor
    fold = options.fold or min(factor, 4)
    if factor % fold:
        raise SettingsError(
            subject="fold",
            expected=f"a number that divides the model's {factor} pixels",
            got=fold,
            hint="leave --fold out for the default",
        )
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
    source = photo_gs_checkpoint() if found is None else found.config if isinstance(found, SingleFile) else Path(found)
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
            _write_json(target / "tokenizer_config.json", config | {"model_max_length": networks.TINY_TOKENS})
        folders[kind.tokenizer] = target
    return folders, new


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
