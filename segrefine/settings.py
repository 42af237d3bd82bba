"""The numbers that the methods leave open, with the values that measured best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from segrefine.errors import SettingsError
from segrefine.presets import PRESETS
from segrefine.samplers import SAMPLERS
from segrefine.setting_values import describe_kind, is_like, show_value

if TYPE_CHECKING:
    from typing import Self

Changes = Mapping[str, Any] | str
"""Other values for some settings by their names, or the name of a preset."""
Mode = Literal["one-step", "loop"]
Comparison = Literal["original", "unmasked"]
MOST_SAMPLES = 256
"""Of 1024×1024 pixels, these take 1 GB."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of both methods' settings: check values, change them, write JSON and read it.

    Attributes:
        method: the method's name, as bundles have it.
        title: the method's name and its command, for messages.
    """

    method: ClassVar[Literal["g4seg", "gs", "zero-shot"]]
    title: ClassVar[str]

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is of another kind than its default, or outside its range."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not is_like(value, entry.default):
                raise SettingsError(subject=entry.name, expected=describe_kind(entry.default), got=show_value(value))
        self._check_ranges()

    @classmethod
    def preset(cls, name: str) -> Self:
        """The default settings with a preset's changes.

        Raises:
            SettingsError: the method has no such preset.
        """
        return cls().with_preset(name)

    def with_preset(self, name: str) -> Self:
        """Return these settings with a preset's changes.

        Raises:
            SettingsError: the method has no such preset.
        """
        presets = PRESETS[self.method]
        if name not in presets:
            raise SettingsError(f"{self.title} has no preset {name!r}", hint=f"there are: {', '.join(presets)}")
        return self.with_changes(presets[name])

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return these settings with other values for some, by their names; lists count as tuples.

        Raises:
            SettingsError: an unknown name, or a value of another kind or outside its range.
        """
        return type(self).from_dict({**self.to_dict(), **changes})

    def change(self, wanted: Self | Changes | None) -> Self:
        """Other settings, as calls name them.

        Args:
            wanted: settings, which replace these; a dict of changes; the name of a preset; or None for these settings.

        Raises:
            SettingsError: an unknown name, a wrong value, or settings of the other method.
        """
        if wanted is None or isinstance(wanted, type(self)):
            return wanted or self
        if isinstance(wanted, str):
            return self.with_preset(wanted)
        if isinstance(wanted, Mapping):
            return self.with_changes(wanted)
        expected = f"{type(self).__name__}, a dict of changes or the name of a preset"
        raise SettingsError(subject="settings", expected=expected, got=type(wanted).__name__)

    @classmethod
    def read_value(cls, name: str, text: str) -> Any:
        """The value of a setting that is given as text: JSON, a plain word, or numbers separated by commas.

        The value is not checked yet; `with_changes` does that.

        Raises:
            SettingsError: there is no such setting.
        """
        default = cls._entry(name).default
        if isinstance(default, str):
            return text
        try:
            return json.loads(f"[{text}]" if isinstance(default, tuple) and not text.startswith("[") else text)
        except ValueError:
            return text

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The settings that `to_dict` wrote; what is left out has its default.

        Raises:
            SettingsError: an unknown name, or a value outside its range.
        """
        for name in raw:
            cls._entry(name)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
        }
        return cls(**values)

    @classmethod
    def _entry(cls, name: str) -> Field[Any]:
        """The field of a setting.

        Raises:
            SettingsError: there is no such setting; the message says whether the other method has it.
        """
        known = {entry.name: entry for entry in fields(cls)}
        if name in known:
            return known[name]
        hint = f"there are: {', '.join(sorted(known))}"
        for other in Settings.__subclasses__():
            if other is not cls and name in {entry.name for entry in fields(other)}:
                raise SettingsError(f"{name!r} is a setting of {other.title}, not of {cls.title}", hint=hint)
        raise SettingsError(f"{cls.title} has no setting {name!r}", hint=hint)

    def _check_ranges(self) -> None:
        """Raises SettingsError where a value, of the right kind, is outside its range."""

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise SettingsError(subject=name, expected=f"one of {', '.join(choices)}", got=repr(getattr(self, name)))

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise SettingsError(subject=name, expected="0 or more", got=getattr(self, name))

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise SettingsError(subject=name, expected="1 or more", got=getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class G4SegSettings(Settings):
    """Settings of refining. Defaults: `docs/method.md` has the trials and measurements.

    Attributes:
        mode: how the mask-conditional image is made: "one-step" adds noise and removes it in one step (the paper's
            way), "loop" inverts the image by DDIM and samples it back.
        comparison: what the mask-conditional image is compared with: the "original" image, or an "unmasked" image that
            was generated from the same noise without the mask.
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
        text_timesteps: noise levels at which the image is denoised with and without the label. None: no text evidence.
        worth_range: score of the evidence at which it begins to count, and score at which it counts fully; see
            `segrefine.runtime.worth`. Empty: the worth of evidence is not measured, and all of it counts.
        text_strengths: strengths of cross-attention under the coarse mask with which the label is tried.
        worth_nulls: other words that the label is compared with.
        effect_range: change by the label, in shares of the remaining error, that begins to count and that counts fully.
        likeness_range: cosine between what the label adds to the prediction and what other words add, up to which the
            evidence counts fully, and from which it counts nothing.
        joint_strengths: `text_strengths` where several labels are refined jointly.
        text_effect: weight of how much the label changes what is predicted, beside the error that it takes away.
        text_spread: how far the evidence of the text spreads along regions of like colour, see `spread`.
        text_contrast: colour difference at which it stops, in multiples of the image's root mean square.
        text_weight: log-odds of evidence as strong as the mask's own, the ninth decile within the coarse mask.
        text_threshold: the evidence that speaks neither for the label nor against it, as a share of the mask's own.
        text_rivalry: of several labels, how much the others' mean evidence counts against each.
        bias: log-odds of foreground where nothing speaks for it or against it.
        discrepancy_weight: log-odds against a pixel's side, per unit of its discrepancy relative to the mean; 0 leaves
            the discrepancy out of the update.
        mixing: share of the new estimate in the updated probability.
        prior_weight: weight of the coarse mask's own log-odds in every estimate.
        edges: whether the border moves to the edges of the image at the end.
        template: the prompt; `{label}` stands for the label.
    """

    method = "g4seg"
    title = "G4Seg (refine)"

    mode: Mode = "one-step"
    comparison: Comparison = "original"
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
    worth_range: tuple[float, ...] = (0.2, 1.0)
    worth_nulls: int = 2
    effect_range: tuple[float, ...] = (0.007, 0.014)
    likeness_range: tuple[float, ...] = (0.5, 0.7)
    text_strengths: tuple[float, ...] = (0.0, 6.0)
    joint_strengths: tuple[float, ...] = (6.0,)
    text_effect: float = 1.0
    text_spread: float = 3000.0
    text_contrast: float = 0.2
    text_weight: float = 4.0
    text_threshold: float = 0.43
    text_rivalry: float = 0.5
    bias: float = -0.5
    discrepancy_weight: float = 0.0
    mixing: float = 1.0
    prior_weight: float = 0.45
    edges: bool = True
    template: str = "a photo of a {label}"

    @property
    def asks_text(self) -> bool:
        """Return whether evidence of the text is computed; where it counts for nothing, it costs nothing."""
        return bool(self.text_timesteps) and self.text_weight != 0

    @property
    def measures_worth(self) -> bool:
        """Return whether the worth of the evidence is measured. It takes a noise level of the text."""
        return bool(self.worth_range) and self.asks_text

    @property
    def probe_levels(self) -> tuple[int, ...]:
        """Places in `text_timesteps` of the one or two levels at which the worth is measured."""
        count = len(self.text_timesteps)
        return tuple(range(0, count, max(1, count // 2)))[:2]

    def count_passes(self, labels: int = 1) -> int:
        """The most passes of the UNet that a refinement of so many labels takes; feature passes count."""
        text = 0
        if self.asks_text:
            levels, strengths = len(self.text_timesteps), self.text_strengths if labels == 1 else self.joint_strengths
            text = levels * (1 + labels * len(strengths))
            if self.measures_worth:
                asked_again = labels * (0.0 not in strengths)
                text += len(self.probe_levels) * (self.worth_nulls + asked_again)
        each = self.noises if self.mode == "one-step" else 2 * self.loop_steps
        each = each * (1 + (self.guidance_scale != 1)) + 1  # generated, and its features
        unmasked = self.comparison == "unmasked"
        return text + len(self.timesteps) * labels * each * (1 + unmasked) + (not unmasked)

    def _check_ranges(self) -> None:
        self._check_choice("mode", get_args(Mode))
        self._check_choice("comparison", get_args(Comparison))
        if self.asks_text and not (self.text_strengths and self.joint_strengths):
            raise SettingsError(
                subject="text_strengths and joint_strengths",
                expected="one strength or more each, for there are text_timesteps",
            )
        self._check_positive("discrepancy_weight")
        if min(*self.timesteps, *self.text_timesteps, self.feature_timestep, 0) < 0:
            raise SettingsError(expected="timesteps of 0 or more", got="a negative one")
        if not self.timesteps or len(self.timesteps) != len(self.confusion):
            raise SettingsError(
                expected="one confusion width for each timestep", got=f"{len(self.confusion)} for {len(self.timesteps)}"
            )
        for name, allowed in (("worth_range", (0, 2)), ("effect_range", (2,)), ("likeness_range", (2,))):
            ends = getattr(self, name)
            if len(ends) not in allowed or sorted(set(ends)) != list(ends):
                raise SettingsError(subject=name, expected="two rising numbers", got=list(ends))
        self._check_counts("noises", "loop_steps", "worth_nulls")
        self._check_positive("guidance_scale")
        if not 0 < self.mixing <= 1:
            raise SettingsError(subject="mixing", expected="a share in (0, 1]", got=self.mixing)
        if self.temperature <= 0:
            raise SettingsError(subject="temperature", expected="a positive number", got=self.temperature)


@dataclass(frozen=True, kw_only=True)
class GsSettings(Settings):
    """Settings of generating a mask. Defaults: `docs/gs.md` has the trials and measurements.

    Attributes:
        sampler: one of `segrefine.samplers.SAMPLERS`: "ddim", "dpm-solver" (DPM-Solver++ 2M), or "lcm".
        steps: of the sampler, over the whole schedule.
        samples: masks that are drawn for each phrase; their mean is the probability, their spread the uncertainty.
        guidance_scale: classifier-free guidance by the phrase; 1 is none.
        image_guidance_scale: classifier-free guidance by the image; 1 is none.
        edges: whether the border of the samples' mean is moved to the image's edges, as G4Seg's last step does it.
        context: whether a phrase of a caption is read with the words before it, and not alone.
    """

    method = "gs"
    title = "GS (segment)"

    sampler: str = "ddim"
    steps: int = 1
    samples: int = 1
    guidance_scale: float = 1.0
    image_guidance_scale: float = 1.0
    edges: bool = True
    context: bool = False

    @property
    def predictions(self) -> int:
        """Return the highest number of predictions that guidance takes for each sample, 1 to 3; they run together."""
        return 1 + (self.image_guidance_scale != self.guidance_scale) + (self.image_guidance_scale != 1)

    def _check_ranges(self) -> None:
        self._check_choice("sampler", tuple(SAMPLERS))
        self._check_counts("steps", "samples")
        if self.samples > MOST_SAMPLES:
            raise SettingsError(subject="samples", expected=f"at most {MOST_SAMPLES}", got=self.samples)
        self._check_positive("guidance_scale", "image_guidance_scale")


BUNDLE_SETTINGS: dict[str, type[G4SegSettings | GsSettings]] = {"g4seg": G4SegSettings, "gs": GsSettings}
"""The settings of a bundle, by its method."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings(Settings):
    """Settings of zero-shot segmentation. Defaults: `docs/zero_shot.md` has the trials.

    Attributes:
        text_timesteps: noise levels at which the image is denoised with and without each phrase.
        text_effect: weight of how much a phrase changes what is predicted, beside the error that it takes away.
        attention_timestep: noise level at which attention is read.
        attention_weight: weight of the attention of a phrase's tokens, beside how well it explains pixels; 0: not read.
        spread_steps: times that the explanation is spread along self-attention.
        evidence_logit: log-odds where a phrase takes all of the error away, for a model that was trained to have the
            sign of its evidence right. 0 for others: a phrase is compared with other words.
        rivals: how many other words, at least; null words fill up the other phrases.
        threshold: score from which a place belongs to the phrase: standard deviations over the image, or log-odds.
        sharpness: log-odds per unit of the score.
        presence: how far a phrase must explain its mask better than the best of other words does, in units of how far
            those lie apart; with `evidence_logit`, its mask's mean score. Masks of phrases below it are empty.
        edges: whether the border is moved to the image's edges.
        template: the prompt; `{label}` stands for the phrase.
        context: whether a phrase of a caption is read with the words before it, and not in the template.
    """

    method = "zero-shot"
    title = "zero-shot (segment)"

    text_timesteps: tuple[int, ...] = (300, 450, 600, 800)
    text_effect: float = 0.0
    attention_timestep: int = 50
    attention_weight: float = 0.5
    spread_steps: int = 2
    evidence_logit: float = 0.0
    rivals: int = 4
    threshold: float = 1.0
    sharpness: float = 2.0
    presence: float = 0.75
    edges: bool = True
    template: str = "a photo of a {label}"
    context: bool = False

    def for_refining(self) -> ZeroShotSettings:
        """The same for masks that G4Seg refines: it moves the borders itself."""
        return replace(self, edges=False)

    def as_refining(self) -> G4SegSettings:
        """The settings of G4Seg with the same evidence of words."""
        return G4SegSettings(text_timesteps=self.text_timesteps, text_effect=self.text_effect, template=self.template)

    def count_null_words(self, phrases: int) -> int:
        """Null words for so many phrases, besides each other."""
        return 0 if self.evidence_logit else max(0, self.rivals + 1 - phrases)

    def count_passes(self, phrases: int = 1) -> int:
        """Passes of the UNet for so many phrases."""
        attention = phrases if self.attention_weight else 1
        return len(self.text_timesteps) * (1 + phrases + self.count_null_words(phrases)) + attention

    def _check_ranges(self) -> None:
        if not self.text_timesteps or min(*self.text_timesteps, self.attention_timestep) < 0:
            raise SettingsError(expected="one timestep of 0 or more", got=list(self.text_timesteps))
        self._check_positive("attention_weight", "spread_steps", "evidence_logit")
        self._check_counts("rivals")
        if self.sharpness <= 0:
            raise SettingsError(subject="sharpness", expected="a positive number", got=self.sharpness)
