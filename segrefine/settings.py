"""The numbers that the methods leave open, with the values that measured best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from segrefine.errors import SettingsError

Mode = Literal["one-step", "loop"]
Sampler = Literal["ddim", "dpm-solver", "lcm"]
MOST_SAMPLES = 256
"""Of 1024×1024 pixels, these take 1 GB."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of both methods can do: check their values' kinds, become JSON and be read from it."""

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is of another kind than its default, or outside its range."""
        for entry in fields(self):
            if not _is_like(getattr(self, entry.name), entry.default):
                raise SettingsError(
                    f"{entry.name}: expected the like of {entry.default!r}, got {getattr(self, entry.name)!r}"
                )
        self._check_ranges()

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The settings that `to_dict` wrote; what is left out has its default.

        Raises:
            SettingsError: an unknown name, or a value outside its range.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(raw.keys() - known):
            raise SettingsError(f"unknown setting {unknown[0]!r}", hint=f"there are: {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
        }
        return cls(**values)

    def _check_ranges(self) -> None:
        """Raises SettingsError where a value, of the right kind, is outside its range."""

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise SettingsError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: expected 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class G4SegSettings(Settings):
    """How a mask is refined. Defaults: `docs/method.md` says what was tried and what it measured.

    Attributes:
        mode: how the mask-conditional image is made: "one-step" adds noise and removes it in one step (the paper's
            way), "loop" inverts the image by DDIM and samples it back.
        timesteps: noise level of each round, in training timesteps, coarse to fine.
        confusion: for each round the largest |P − ½| of a pixel that may change.
        noises: noises that are averaged over, in the generation and in the evidence of the text.
        loop_steps: DDIM steps over the whole schedule, in mode "loop".
        guidance_scale: classifier-free guidance of the generation; 1 is none.
        self_strength: logits that self-attention gains between pixels of like foreground.
        cross_strength: logits that cross-attention gains between pixels and the tokens that name them.
        feature_timestep: noise level at which features are taken.
        temperature: difference of feature distances that makes odds of e.
        position_weight: weight of a pixel's position, in units of the latent's side, in its descriptor.
        text_timesteps: noise levels at which the image is denoised with and without the label.
        text_strengths: strengths of cross-attention under the coarse mask with which the label is tried.
        joint_strengths: the same, where several labels are refined jointly; each level has one of the noises then.
        text_effect: weight of how much the label changes what is predicted, beside the error that it takes away.
        text_spread: how far the evidence of the text spreads along regions of like colour, see `spread`.
        text_contrast: colour difference at which it stops, in multiples of the image's root mean square.
        text_weight: log-odds per unit of that evidence.
        text_threshold: the evidence that speaks neither for the label nor against it, as a share of the mask's own:
            of the ninth decile of the evidence within the coarse mask.
        text_rivalry: of several labels, how much the others' mean evidence counts against each.
        bias: log-odds of foreground where nothing speaks for it or against it.
        mixing: share of the new estimate in the updated probability.
        prior_weight: weight of the coarse mask's own log-odds in every estimate.
        template: the prompt; `{label}` stands for the label.
    """

    mode: Mode = "one-step"
    timesteps: tuple[int, ...] = (350,)
    confusion: tuple[float, ...] = (1.0,)
    noises: int = 2
    loop_steps: int = 20
    guidance_scale: float = 1.0
    self_strength: float = 6.0
    cross_strength: float = 6.0
    feature_timestep: int = 150
    temperature: float = 2.1
    position_weight: float = 0.5
    text_timesteps: tuple[int, ...] = (300, 400, 500, 600)
    text_strengths: tuple[float, ...] = (0.0, 6.0)
    joint_strengths: tuple[float, ...] = (6.0,)
    text_effect: float = 1.0
    text_spread: float = 3000.0
    text_contrast: float = 0.2
    text_weight: float = 16.0
    text_threshold: float = 0.43
    text_rivalry: float = 0.5
    bias: float = -0.5
    mixing: float = 1.0
    prior_weight: float = 0.38
    template: str = "a photo of a {label}"

    def _check_ranges(self) -> None:
        self._check_choice("mode", get_args(Mode))
        if min(*self.timesteps, *self.text_timesteps, self.feature_timestep, 0) < 0:
            raise SettingsError("expected timesteps of 0 or more, got a negative one")
        if not self.timesteps or len(self.timesteps) != len(self.confusion):
            raise SettingsError(
                f"expected one confusion width for each timestep, got {len(self.confusion)} for {len(self.timesteps)}"
            )
        self._check_counts("noises", "loop_steps")
        self._check_positive("guidance_scale")
        if not 0 < self.mixing <= 1:
            raise SettingsError(f"mixing: expected a share in (0, 1], got {self.mixing}")
        if self.temperature <= 0:
            raise SettingsError(f"temperature: expected a positive number, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class GsSettings(Settings):
    """How a mask is generated. Defaults: `docs/gs.md` says what was tried and what it measured.

    Attributes:
        sampler: "ddim", "dpm-solver" (DPM-Solver++ 2M), or "lcm".
        steps: of the sampler, over the whole schedule.
        samples: masks that are drawn for each phrase; their mean is the probability, their spread the uncertainty.
        guidance_scale: classifier-free guidance by the phrase; 1 is none.
        image_guidance_scale: classifier-free guidance by the image; 1 is none.
        edges: whether the border of the samples' mean is moved to the image's edges, as G4Seg's last step does it.
    """

    sampler: Sampler = "ddim"
    steps: int = 1
    samples: int = 1
    guidance_scale: float = 1.0
    image_guidance_scale: float = 1.0
    edges: bool = True

    @property
    def predictions(self) -> int:
        """How many predictions guidance takes for each sample at most, 1 to 3; they are computed together."""
        return 1 + (self.image_guidance_scale != self.guidance_scale) + (self.image_guidance_scale != 1)

    def _check_ranges(self) -> None:
        self._check_choice("sampler", get_args(Sampler))
        self._check_counts("steps", "samples")
        if self.samples > MOST_SAMPLES:
            raise SettingsError(f"samples: expected at most {MOST_SAMPLES}, got {self.samples}")
        self._check_positive("guidance_scale", "image_guidance_scale")


def _is_like(value: object, default: object) -> bool:
    """Whether a value is of its default's kind: text, yes or no, a whole number, a finite number, a tuple of a kind."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_like(each, default[0]) for each in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
        return False
    return not isinstance(value, float) or math.isfinite(value)
