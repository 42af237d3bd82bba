"""The networks of a run as one module, whose forward pass is the loss: what `accelerate` wraps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from segrefine.errors import SettingsError
from segrefine.reference.context import reorder
from segrefine.reference.image_encoder import FeatureEncoder
from segrefine.reference.label_codec import AreaCodec
from segrefine.reference.latents import encode_image
from segrefine.reference.text import Text, encode_ids, predict, size_condition
from segrefine.train.adapters import add_adapters
from segrefine.train.batches import Batch
from segrefine.train.levels import is_end_to_end
from segrefine.train.losses import clean_from_output, diffusion_loss, mask_loss
from segrefine.train.model import LabelModel
from segrefine.train.options import TrainOptions


class Trainee(nn.Module):
    """The networks, what of them is trained, and the loss of a batch.

    Args:
        model: the model; its networks are shared, not copied.
        options: the run's options.
        alphas: cumulated alphas of the noise levels, (levels,).
        classes: how many classes the data has.
    """

    alphas: Tensor

    def __init__(self, model: LabelModel, options: TrainOptions, alphas: Tensor, classes: int = 0) -> None:
        super().__init__()
        self._model, self._options = model, options
        self.label_denoiser = model.denoiser
        self.text_encoders = nn.ModuleDict(model.text_encoders)
        self.vae = model.checkpoint.vae
        self.register_buffer("alphas", alphas, persistent=False)
        self.class_head: ClassHead | None = None
        if options.class_loss:
            self.class_head = ClassHead(self.vae, classes)
        self._choose_weights()
        self._denoise: Any = self.label_denoiser
        if options.checkpointing:
            self.label_denoiser.enable_gradient_checkpointing()
        if options.compile:
            self._denoise = torch.compile(self.label_denoiser)

    def _choose_weights(self) -> None:
        """Say which weights are trained."""
        o = self._options
        if o.lora:
            add_adapters(self.label_denoiser, o.lora, o.lora_targets)
            for ends in ("conv_in", "conv_out"):
                getattr(self.label_denoiser, ends).requires_grad_(True)
            for encoder in self.text_encoders.values() if o.train_text else ():
                add_adapters(encoder, o.lora)
        else:
            self.label_denoiser.requires_grad_(True)
            for encoder in self.text_encoders.values():
                encoder.requires_grad_(o.train_text)
        if o.train_image:
            for part in image_parts(self.vae):
                part.requires_grad_(True)
        if self._model.new_words and o.train_text:
            for encoder in self.text_encoders.values():
                encoder.get_input_embeddings().weight.requires_grad_(True)  # type: ignore[operator]

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def forward(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """The losses of a batch: "loss", the sum that is minimised, and its parts.

        Args:
            batch: the samples.
            done: share of the run that is done.
        """
        z = self._encode_image(batch.image)[batch.owner] * batch.kept
        text = self._encode_text(batch)
        truth = self._model.checkpoint.codec.encode(batch.mask)
        clean, loss = self._loss(truth, truth, batch.level, batch, z, text, done)
        parts = {"first": loss.mean().detach()}
        rows = self._own_rows(batch)
        total = loss.sum()
        if len(rows):
            level = batch.lower.clamp(min=0)
            _, again = self._loss(clean.detach()[rows], truth[rows], level[rows], pick(batch, rows), z[rows],
                                  {name: each[rows] for name, each in text.items()}, done)  # fmt: skip
            total = total + again.sum()
            parts["own"] = again.mean().detach()
        total = total / len(loss)
        if self.class_head is not None:
            of_classes = self.class_head(batch.classes)
            total = total + self._options.class_loss * of_classes
            parts["classes"] = of_classes.detach()
        return {"loss": total, **parts}

    def _own_rows(self, batch: Batch) -> Tensor:
        """The samples that also train a lower level; without numbers, as many as there are on average."""
        if batch.lower.is_meta:
            return torch.arange(round(self._options.own_share * len(batch.lower)), device="meta")
        return (batch.lower >= 0).nonzero().flatten()

    def _loss(
        self, start: Tensor, truth: Tensor, level: Tensor, batch: Batch, z: Tensor, text: Text, done: float
    ) -> tuple[Tensor, Tensor]:
        """The clean latents (B, C, h, w) that the denoiser finds from noisy `start`, and the loss (B,)."""
        checkpoint = self._model.checkpoint
        alpha = self.alphas[level].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * start + (1 - alpha).sqrt() * batch.noise
        output = predict(self._denoise, torch.cat([noisy, z], 1), level, text).float()
        clean = clean_from_output(output, noisy, alpha, checkpoint.prediction_type)
        diffused = diffusion_loss(clean, truth, alpha, checkpoint.prediction_type)
        if not is_end_to_end(self._options.recipe, done):
            return clean, diffused
        return clean, self._decoded_loss(clean, batch)

    def _decoded_loss(self, clean: Tensor, batch: Batch) -> Tensor:
        """The loss (B,) of the mask that clean latents decode to."""
        codec = self._model.checkpoint.codec
        if isinstance(codec, AreaCodec):
            decoded = F.pixel_shuffle(clean, codec.fold)[:, 0] / codec.scale  # unclamped
        else:
            decoded = 2 * codec.decode(clean)[:, 0] - 1
        size = (decoded.shape[1], decoded.shape[2])
        mask, counted = (F.adaptive_avg_pool2d(each, size)[:, 0] for each in (batch.mask, batch.counted))
        return mask_loss(decoded, mask / counted.clamp(min=1e-6) * (counted > 0), counted)

    def _encode_image(self, image: Tensor) -> Tensor:
        with torch.set_grad_enabled(self._options.train_image and torch.is_grad_enabled()):
            return encode_image(self.vae, image)

    def _encode_text(self, batch: Batch) -> Text:
        """Encode each sample's text for the denoiser; see `ModelParts.encode_text`."""
        states, text = [], Text()
        family = self._model.checkpoint.family
        with torch.set_grad_enabled(self._options.train_text and torch.is_grad_enabled()):
            for kind in family.text_encoders:
                of_words, of_text = encode_ids(self.text_encoders[kind.part], kind, batch.ids[kind.tokenizer])
                states.append(reorder(of_words, batch.order))
                if of_text is not None:
                    text["text_embeds"] = of_text[batch.text]
        text["encoder_hidden_states"] = torch.cat(states, -1)[batch.text]
        if family.addition == "text_time":
            sizes = size_condition(batch.image.shape[2:]).to(batch.image.device)
            text["time_ids"] = sizes.expand(len(batch.text), -1)
        return text


def image_parts(encoder: nn.Module) -> list[nn.Module]:
    """The networks that turn an image into latents; those of an image codec that decode are not among them."""
    if isinstance(encoder, FeatureEncoder):
        return [encoder]
    parts = (getattr(encoder, name, None) for name in ("encoder", "quant_conv"))
    return [part for part in parts if part is not None]


class ClassHead(nn.Module):
    """Reads the class of every pixel from the middle of an image encoder.

    One phrase tells the encoder about one class. This loss tells it about all classes of the image, at little cost.

    Args:
        encoder: the encoder, or the image codec that holds it. What its middle gave last is read.
        classes: how many classes there are.

    Raises:
        SettingsError: the encoder has no middle.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        middle: Any
        if isinstance(encoder, FeatureEncoder):
            middle, width = encoder.join, encoder.config.width
        elif not isinstance(encoder, AutoencoderKL):
            raise SettingsError(
                subject="class_loss",
                expected="a model whose image encoder has a middle block",
                got=type(encoder).__name__,
                hint="leave --class-loss out",
            )
        else:
            middle = encoder.encoder.mid_block
            width = middle.resnets[-1].conv2.out_channels
        self._cells, self._middle = 2, torch.empty(0)
        self.head = nn.Conv2d(width, (1 + classes) * self._cells**2, 1)
        middle.register_forward_hook(self._keep)

    def forward(self, classes: Tensor) -> Tensor:
        """The cross-entropy with the share of each class in each cell; see `Batch.classes`."""
        middle, self._middle = self._middle, torch.empty(0)  # keeps no graph alive
        logits = F.pixel_shuffle(self.head(middle), self._cells).float()
        counted = (classes >= 0)[:, None]
        shares = F.one_hot(classes.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2).float() * counted
        shares = F.adaptive_avg_pool2d(shares, (logits.shape[2], logits.shape[3]))
        return -(shares * F.log_softmax(logits, 1)).sum(1).mean()

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._middle = output


def pick(batch: Batch, rows: Tensor) -> Batch:
    """The samples of a batch in some rows; images and texts stay as they are."""
    of_samples = ("owner", "text", "mask", "counted", "kept", "level", "lower", "noise")
    return Batch(
        image=batch.image,
        ids=batch.ids,
        order=batch.order,
        classes=batch.classes,
        **{name: getattr(batch, name)[rows] for name in of_samples},
    )
