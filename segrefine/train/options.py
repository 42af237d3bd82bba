"""The options of a training run, and the check that a resumed run has the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from segrefine.errors import OutputError, SettingsError
from segrefine.runtime.files.output import write_whole
from segrefine.storage import read_json_object

Recipe = Literal["end-to-end", "diffusion", "both"]
Prediction = Literal["sample", "v_prediction", "epsilon"]
Codec = Literal["area", "vae"]
Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw8bit"]
Augmentation = Literal["none", "light", "strong"]

OPTIONS = "options.json"
FREE = ("steps", "save_minutes", "validate_minutes", "accumulate", "workers")
"""Options that may change when a run is resumed: they do not change what a step computes."""

_CHOICES: dict[str, Any] = {
    "recipe": Recipe, "prediction": Prediction, "codec": Codec, "precision": Precision, "optimizer": Optimizer,
    "augmentation": Augmentation,
}  # fmt: skip
_POSITIVE = (
    "steps", "batch", "phrases", "accumulate", "learning_rate", "save_minutes", "validate_minutes", "validation_limit",
    "side",
)  # fmt: skip
_SHARES = ("drop_image", "drop_phrase", "own_share", "paste", "mosaic", "warm_up", "ema")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """All numbers and choices of a training run.

    Attributes:
        model: `tiny`, `photo-gs`, or the folder of a Stable Diffusion or label diffusion checkpoint.
        steps: optimizer steps in total.
        batch: samples of one step, over all processes; a sample is an image with a phrase.
        phrases: phrases of each image in a batch.
        accumulate: parts in which each process computes its share of a batch.
        learning_rate: peak rate of AdamW.
        warm_up: share of the steps in which the rate rises.
        seed: random seed of batches, noise and new weights.
        recipe: "end-to-end" trains one step on the decoded mask; "diffusion" trains all noise levels; "both" starts
            with diffusion and ends with end-to-end.
        own_share: share of samples that also train a lower noise level, from the model's own mask.
        class_loss: weight of a loss that asks the image encoder for the class of every pixel; only with `train_image`.
        prediction: what the denoiser predicts; None for the model's own choice.
        codec: how masks become label latents; None for the model's own.
        fold: cells per latent pixel along one side, for the area codec; None for the model's own.
        side: longer image side in pixels; None for the model's own.
        drop_image: share of samples without image.
        drop_phrase: share of samples without phrase.
        lora: rank of the adapters; 0 trains all weights.
        lora_targets: names of the layers that get adapters.
        train_text: whether text encoders are trained.
        train_image: whether the image encoder is trained; only with the area codec.
        new_words: class names that become single tokens; only for small vocabularies.
        precision: what the networks compute in.
        checkpointing: whether activations are computed again in the backward pass, to save memory.
        compile: whether the denoiser is compiled.
        optimizer: "adamw", or "adamw8bit" of bitsandbytes.
        ema: decay of the averaged weights; 0 keeps no average.
        augmentation: how strongly images are changed.
        paste: share of images that get an object of another image.
        mosaic: share of images that are joined from two.
        closed_world: whether a class that is not annotated in an image is absent from it, whatever data set it is of.
        context: whether phrases of captions are read with the words before them.
        validation_limit: images that validation looks at, at most.
        save_minutes: minutes between two saved states.
        validate_minutes: minutes between two validations.
        workers: threads that prepare batches.
    """

    model: str
    steps: int = 20_000
    batch: int = 32
    phrases: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-4
    warm_up: float = 0.02
    seed: int = 0
    recipe: Recipe = "end-to-end"
    own_share: float = 0.25
    class_loss: float = 0.0
    prediction: Prediction | None = None
    codec: Codec | None = None
    fold: int | None = None
    side: int | None = None
    drop_image: float = 0.05
    drop_phrase: float = 0.05
    lora: int = 0
    lora_targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")
    train_text: bool = True
    train_image: bool = False
    new_words: bool = True
    precision: Precision = "fp32"
    checkpointing: bool = False
    compile: bool = False
    optimizer: Optimizer = "adamw"
    ema: float = 0.999
    augmentation: Augmentation = "strong"
    paste: float = 0.4
    mosaic: float = 0.15
    closed_world: bool = False
    context: bool = False
    validation_limit: int = 200
    save_minutes: float = 5
    validate_minutes: float = 15
    workers: int = 1

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            SettingsError: an option is outside its range, or two of them contradict each other.
        """
        for name, choices in _CHOICES.items():
            value, allowed = getattr(self, name), get_args(choices)
            if value is not None and value not in allowed:
                raise SettingsError(subject=name, expected=f"one of {', '.join(allowed)}", got=repr(value))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(subject=name, expected="a number above 0", got=repr(value))
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(subject=name, expected="a share from 0 up to 1", got=repr(getattr(self, name)))
        self._check_pairs()

    def _check_pairs(self) -> None:
        for name in ("seed", "lora", "workers"):
            if getattr(self, name) < 0:
                raise SettingsError(subject=name, expected="a whole number of 0 or more", got=getattr(self, name))
        if self.batch % self.phrases:
            raise SettingsError(
                subject="batch",
                expected=f"a multiple of the {self.phrases} phrases of an image",
                got=self.batch,
                hint=f"such as --batch {-(-self.batch // self.phrases) * self.phrases}",
            )
        if self.fold is not None and (self.codec == "vae" or self.fold not in (1, 2, 4, 8)):
            raise SettingsError(subject="fold", expected="1, 2, 4 or 8 for the area codec", got=self.fold)
        if self.train_image and self.codec == "vae":
            raise SettingsError(
                "the VAE codec needs its image encoder as it is", subject="train_image", hint="use --codec area"
            )
        if not 0 <= self.class_loss < float("inf") or (self.class_loss and not self.train_image):
            raise SettingsError(
                subject="class_loss",
                expected="0 or more, and train_image with it",
                got=repr(self.class_loss),
                hint="add --train-image",
            )
        if self.lora and self.train_image:
            raise SettingsError(
                "adapters do not reach the image encoder",
                subject="train_image",
                hint="leave out --lora or --train-image",
            )
        if self.paste + self.mosaic > 1:
            total = self.paste + self.mosaic
            raise SettingsError(subject="paste and mosaic", expected="shares that sum to at most 1", got=total)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def note_options(file: Path, options: TrainOptions, data: Mapping[str, Any]) -> None:
    """Write the options of a new run to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, (json.dumps({"options": options.to_dict(), "data": data}, indent=2) + "\n").encode())


def check_options(file: Path, options: TrainOptions, data: Mapping[str, Any]) -> None:
    """Check that a resumed run has the options that `note_options` wrote.

    Raises:
        OutputError: an option that changes the result has another value.
    """
    noted = read_json_object(file, OutputError, hint="choose a new folder")
    before = {**noted.get("options", {}), **noted.get("data", {})}
    now = {**options.to_dict(), **json.loads(json.dumps(data))}
    known = {field.name for field in fields(TrainOptions)} | now.keys()
    changed = [name for name in sorted(known) if name not in FREE and before.get(name) != now.get(name)]
    if changed:
        words = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r} now" for name in changed)
        raise OutputError(
            f"{file.parent.parent} holds a run with other options: {words}",
            hint="give the options of that run, or choose another folder for a new run",
        )
