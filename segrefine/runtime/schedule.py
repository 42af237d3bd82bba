"""Noise levels of a trained diffusion model, as plain arrays read from a diffusers `scheduler_config.json`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import SettingsError
from segrefine.runtime.schedule_config import complete_schedule

Array = NDArray[np.floating[Any]]
Timestep = int | NDArray[np.int64]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
_FEWER_STEPS = "change the number of steps"


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseSchedule:
    """The share of signal at every timestep of training, and how the network's output is to be read.

    A sample at timestep t is √ᾱ_t · clean + √(1 − ᾱ_t) · noise. Timesteps are a number, or int64 (B,) with one per
    sample; a negative one stands for the end of sampling, whose level is `final_alpha`. Samples are float (B, ...), and
    what is computed from them keeps their dtype.

    Attributes:
        alphas_cumprod: ᾱ, float64 (T,), in [0, 1], falling.
        final_alpha: ᾱ below the first timestep: 1, or ᾱ_0.
        prediction_type: what the network gives: the noise, the velocity √ᾱ·noise − √(1 − ᾱ)·clean, or the clean sample.
        timestep_spacing: how fewer steps than T are spread over them (arXiv 2305.08891, table 2).
        steps_offset: added to every timestep under "leading" spacing.
        clip_range: predicted clean samples are clipped to ± this; None for latents.

    Raises:
        SettingsError: a value is not one that the fields above describe.
    """

    alphas_cumprod: Array
    final_alpha: float
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 0
    clip_range: float | None = None

    def __post_init__(self) -> None:
        """Checks the fields against each other."""
        _check_choice("prediction_type", self.prediction_type, get_args(PredictionType))
        _check_choice("timestep_spacing", self.timestep_spacing, get_args(TimestepSpacing))
        if not self.alphas_cumprod.size or not ((self.alphas_cumprod >= 0) & (self.alphas_cumprod <= 1)).all():
            raise SettingsError("the betas are not shares of noise from 0 to 1", hint="check the scheduler config")
        if self.prediction_type == "epsilon" and not self.alphas_cumprod.all():
            raise SettingsError(
                "the schedule ends without any signal (rescale_betas_zero_snr), where noise says nothing of the image",
                hint="such a model predicts v: set prediction_type to v_prediction",
            )

    def check_timesteps(self, timesteps: Iterable[int]) -> None:
        """Checks that the schedule has these timesteps.

        Raises:
            SettingsError: it ends before the largest.
        """
        if (largest := max(timesteps)) >= len(self.alphas_cumprod):
            raise SettingsError(
                subject=f"timestep {largest}", expected=f"at most {len(self.alphas_cumprod) - 1}, the schedule's last"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read the schedule of a `scheduler_config.json`. Settings that it leaves out have its class's defaults.

        Raises:
            SettingsError: the configuration is malformed, or asks for something that this schedule does not have.
        """
        settings = complete_schedule(config)
        try:
            return cls._from_settings(settings)
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            if isinstance(error, SettingsError):
                raise
            message = f"the scheduler config is malformed: {error}"
            raise SettingsError(message, hint="take scheduler_config.json again from where it came from") from error

    @classmethod
    def _from_settings(cls, settings: Mapping[str, Any]) -> NoiseSchedule:
        alphas_cumprod: Array = np.cumprod(1 - _read_betas(settings))
        if settings["rescale_betas_zero_snr"]:
            alphas_cumprod = _end_without_signal(alphas_cumprod)
        return cls(
            alphas_cumprod=alphas_cumprod,
            final_alpha=1.0 if settings["set_alpha_to_one"] else float(alphas_cumprod[0]),
            prediction_type=settings["prediction_type"],
            timestep_spacing=settings["timestep_spacing"],
            steps_offset=operator.index(settings["steps_offset"]),
            clip_range=float(settings["clip_sample_range"]) if settings["clip_sample"] else None,
        )

    def add_noise(self, clean: Array, noise: Array, timestep: Timestep) -> Array:
        """The clean sample brought to the noise level of `timestep`."""
        signal, spread = self._weights(timestep, clean)
        return signal * clean + spread * noise

    def predict_clean(self, output: Array, sample: Array, timestep: Timestep) -> Array:
        """The clean sample that the network's `output` for `sample` implies (DDIM, arXiv 2010.02502, equation 9)."""
        signal, spread = self._weights(timestep, sample)
        clean: Array
        match self.prediction_type:
            case "epsilon":
                clean = (sample - spread * output) / signal
            case "v_prediction":
                clean = signal * sample - spread * output
            case "sample":
                clean = output
        return clean if self.clip_range is None else clean.clip(-self.clip_range, self.clip_range)

    def predict_noise(self, output: Array, sample: Array, timestep: Timestep) -> Array:
        """The noise that the network's `output` for `sample` implies."""
        signal, spread = self._weights(timestep, sample)
        match self.prediction_type:
            case "epsilon":
                return output
            case "v_prediction":
                return signal * output + spread * sample
            case "sample":
                return (sample - signal * output) / spread

    def ddim_timesteps(self, steps: int, start: int | None = None) -> NDArray[np.int64]:
        """The timesteps that DDIM visits, int64, falling: `steps` of them, or those of them that are not above `start`.

        Raises:
            SettingsError: more steps than there are timesteps, or none left.
        """
        timesteps = self._spread(steps)
        visited = timesteps if start is None else timesteps[timesteps <= start]
        if not visited.size:
            raise SettingsError(
                expected=f"to start at timestep {timesteps[-1]} or above",
                got=start,
                hint="start later or use more steps",
            )
        return visited

    def dpm_timesteps(self, steps: int) -> NDArray[np.int64]:
        """The timesteps that DPM-Solver visits, int64, falling: `steps` of them, none at the clean end.

        Raises:
            SettingsError: more steps than there are timesteps.
        """
        return self._spread(steps) if self.timestep_spacing == "trailing" else self._spread(steps + 1)[:-1]

    def lcm_timesteps(self, steps: int, distilled_steps: int = 50) -> NDArray[np.int64]:
        """The timesteps that a latent consistency model visits, int64, falling, whatever the spacing.

        Args:
            steps: how many.
            distilled_steps: timesteps that the model was distilled on; those visited are of these.

        Raises:
            SettingsError: more steps than were distilled.
        """
        if not 1 <= steps <= distilled_steps:
            raise SettingsError(expected=f"1 to {distilled_steps} steps", got=steps, hint=_FEWER_STEPS)
        distilled = np.arange(distilled_steps, 0, -1) * (len(self.alphas_cumprod) // distilled_steps) - 1
        visited: NDArray[np.int64] = distilled[np.arange(steps) * distilled_steps // steps]
        return visited

    def stride(self, steps: int) -> int:
        """Return the timesteps between two of `steps` DDIM steps, whatever the spacing: diffusers does the same."""
        return len(self.alphas_cumprod) // steps

    def _spread(self, count: int) -> NDArray[np.int64]:
        """`count` timesteps over the whole schedule, falling, spaced as `timestep_spacing` says."""
        length = len(self.alphas_cumprod)
        if not 1 <= count <= length:
            raise SettingsError(expected=f"1 to {length} steps", got=count, hint=_FEWER_STEPS)
        falling: NDArray[np.number]
        match self.timestep_spacing:
            case "leading":
                falling = np.arange(count)[::-1] * self.stride(count) + self.steps_offset
            case "trailing":  # float steps can overshoot by one, to timestep −1
                falling = np.round(np.arange(length, 0, -length / count))[:count] - 1
            case "linspace":
                falling = np.linspace(0, length - 1, count).round()[::-1]
        timesteps = falling.astype(np.int64)
        if timesteps[0] >= length:
            raise SettingsError(
                f"{count} steps with an offset of {self.steps_offset} pass the last timestep", hint="use fewer steps"
            )
        return timesteps

    def _weights(self, timestep: Timestep, sample: Array) -> tuple[Array, Array]:
        """√ᾱ and √(1 − ᾱ) at `timestep`, shaped to multiply `sample` and of its dtype."""
        at = np.asarray(timestep)
        alpha = np.where(at < 0, self.final_alpha, self.alphas_cumprod[np.maximum(at, 0)])
        alpha = alpha.reshape(-1, *[1] * (sample.ndim - 1))
        return np.sqrt(alpha).astype(sample.dtype), np.sqrt(1 - alpha).astype(sample.dtype)


def _read_betas(settings: Mapping[str, Any]) -> Array:
    """The share of noise added at each timestep, float64 (T,)."""
    length = operator.index(settings["num_train_timesteps"])
    if settings["trained_betas"] is not None:
        betas = np.asarray(settings["trained_betas"], np.float64)
        if betas.shape != (length,):
            raise SettingsError(
                subject="trained_betas",
                expected=f"{length} numbers, as num_train_timesteps says",
                got=betas.size,
                hint="correct num_train_timesteps in the scheduler config",
            )
        return betas
    first, last, kind = settings["beta_start"], settings["beta_end"], settings["beta_schedule"]
    _check_choice("beta_schedule", kind, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    match kind:
        case "linear":
            return np.linspace(first, last, length)
        case "scaled_linear":
            return np.linspace(first**0.5, last**0.5, length) ** 2
        case _:  # the cosine schedule of Improved DDPM, arXiv 2102.09672
            signal: Array = np.cos((np.linspace(0, 1, length + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
            return (1 - signal[1:] / signal[:-1]).clip(max=0.999)


def _end_without_signal(alphas_cumprod: Array) -> Array:
    """ᾱ shifted and scaled to end at 0 and keep its first value; algorithm 1 of arXiv 2305.08891."""
    signal = np.sqrt(alphas_cumprod)
    scaled: Array = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return scaled**2


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(
            subject=name,
            expected=f"one of {', '.join(choices)}",
            got=repr(value),
            hint="change it in the scheduler config",
        )
