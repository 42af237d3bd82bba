"""Tensors beside 8-bit weights: applied as diffusers loads the plain file that they stand for, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from segrefine.errors import ExportError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.configs import read_configs
from segrefine.reference.scales import expand_shape, find_scales, is_quantized
from segrefine.reference.weight_files import SingleFile, StoredTensor
from tests.examples import examples
from tests.single_file import write_single_file

Weights = dict[str, Tensor]
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return load_file(write_single_file(tiny_checkpoint, tmp_path_factory.mktemp("scales") / "plain.safetensors"))


def matrices(weights: Weights) -> list[str]:
    return [
        name for name, each in weights.items() if name.startswith(UNET) and name.endswith(".weight") and each.ndim == 2
    ]


def scale_of(weight: Tensor, spread: str) -> Tensor:
    """Scales that bring every number into the range of 8-bit floats; each block has another."""
    size = weight.float().abs()
    if spread == "tensor":
        return size.max() / 448
    if spread == "one number":
        return size.max().reshape(1) / 448
    rows = size.amax(1, keepdim=True) / 448
    return {
        "rows": rows[:, 0],
        "rows, 1": rows,
        "blocks": size.reshape(2, -1, 4, size.shape[1] // 4).amax((1, 3)) / 448,
    }[spread]


def spread_out(scale: Tensor, weight: Tensor, spread: str) -> Tensor:
    """The scale of each number, written without the code under test."""
    if spread == "blocks":
        return torch.kron(scale, torch.ones(weight.shape[0] // 2, weight.shape[1] // 4))
    return scale.reshape(-1, 1).expand(weight.shape)


def quantize(weights: Weights, spelling: str, spread: str, dtype: torch.dtype) -> tuple[Weights, Weights]:
    """A file with scaled weights, and the plain file that it stands for."""
    scaled, plain = dict(weights), dict(weights)
    for name in matrices(weights):
        scale = scale_of(weights[name], spread).float()
        whole = spread_out(scale, weights[name], spread)
        scaled[name] = (weights[name].float() / whole).to(dtype)
        scaled[f"{name.removesuffix('.weight')}.{spelling}"] = scale
        plain[name] = scaled[name].float() * whole
    return scaled, plain


def assert_loads_as(plain: Path, scaled: Path, config: Path) -> None:
    """The parts of the scaled file are what diffusers' own loader makes of the plain one."""
    found = load_checkpoint(SingleFile(scaled, config)).unet.state_dict()
    options = {"config": str(config), "subfolder": "unet", "torch_dtype": torch.float32, "local_files_only": True}
    expected = UNet2DConditionModel.from_single_file(load_file(plain), **options).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], each) for name, each in expected.items())


@pytest.mark.parametrize("spread", ["tensor", "one number", "rows", "rows, 1", "blocks"])
@pytest.mark.parametrize(
    ("spelling", "marks"),
    [
        ("scale_weight", {f"{UNET}scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}),
        (
            "weight_scale",
            {f"{UNET}out.2.comfy_quant": torch.tensor([*b'{"format": "float8_e4m3fn"}'], dtype=torch.uint8)},
        ),
        ("weight_scale_inv", {f"{UNET}time_embed.0.input_scale": torch.tensor(3.0)}),
    ],
)
def test_weights_times_scales(
    tiny_checkpoint: Path, tmp_path: Path, weights: Weights, spelling: str, spread: str, marks: Weights
) -> None:
    scaled, plain = quantize(weights, spelling, spread, torch.float8_e4m3fn)
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(scaled | marks, tmp_path / "scaled.safetensors")
    assert_loads_as(tmp_path / "plain.safetensors", tmp_path / "scaled.safetensors", tiny_checkpoint)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_without_a_scale_are_numbers(
    tiny_checkpoint: Path, tmp_path: Path, weights: Weights, dtype: torch.dtype
) -> None:
    save_file({name: each.to(dtype) for name, each in weights.items()}, tmp_path / "a.safetensors")
    assert_loads_as(tmp_path / "a.safetensors", tmp_path / "a.safetensors", tiny_checkpoint)
    whole = load_checkpoint(SingleFile(tmp_path / "a.safetensors", tiny_checkpoint), None).unet
    assert whole.dtype == torch.float16  # holds all 8-bit floats


FIRST = f"{UNET}time_embed.0"
NUMBER = torch.tensor(0.5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        *(({f"{FIRST}.weight.{last}": NUMBER}, f"{FIRST}.weight.{last}") for last in ("absmax", "quant_map", "SCB")),
        ({f"{FIRST}.weight.quant_state.bitsandbytes__nf4": NUMBER}, "quant_state.bitsandbytes__nf4"),
        *(
            ({f"{FIRST}.{last}": NUMBER}, f"{FIRST}.{last}")
            for last in ("qweight", "wscales", "weight_scale_2", "_data")
        ),
        ({f"{FIRST}.scale_weight": NUMBER}, "expected a scale of F8_E4M3 or F8_E5M2 by .* got F16 by F32"),
        ({f"{UNET}nothing.scale_weight": NUMBER}, "there is no model.diffusion_model.nothing.weight"),
        (
            {f"{FIRST}.comfy_quant": torch.tensor([*b'{"format": "nvfp4"}'], dtype=torch.uint8)},
            "expected quantization as one of float8_e4m3fn.* got 'nvfp4'",
        ),
        (
            {
                f"{FIRST}.comfy_quant": torch.tensor(
                    [*b'{"format": "float8_e4m3fn", "convrot": true}'], dtype=torch.uint8
                )
            },
            "got convrot True",
        ),
        ({f"{FIRST}.comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "comfy_quant: it holds no JSON"),
        ({f"{UNET}adapter.up.weight": NUMBER}, "the unet has no place for the tensor model.diffusion_model.adapter.up"),
        ({"first_stage_model.bonus": NUMBER}, "the vae has no place for the tensor first_stage_model.bonus"),
        ({"cond_stage_model.transformer.text_model.gate": NUMBER}, "the text_encoder has no place for the tensor cond"),
        ({"conditioner.embedders.1.model.ln_final.bias": NUMBER}, "conditioner.embedders.1.*is of no part of Stable"),
        ({"surprise": NUMBER}, "holds the tensor surprise, which is of no part of Stable Diffusion 1.x or 2.x"),
    ],
)
def test_what_would_change_or_lose_weights_is_named(
    tiny_checkpoint: Path, tmp_path: Path, weights: Weights, extra: Weights, message: str
) -> None:
    save_file(weights | extra, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match=message) as refused:
        checkpoint = load_checkpoint(SingleFile(tmp_path / "a.safetensors", tiny_checkpoint))
        assert checkpoint.unet and checkpoint.vae and checkpoint.text_encoder  # loaded when they are read
    assert refused.value.hint


def test_formats_in_the_metadata(tiny_checkpoint: Path, tmp_path: Path, weights: Weights) -> None:
    for kind, fits in (("float8_e4m3fn", True), ("mxfp8", False)):
        layers = json.dumps({"format_version": "1.0", "layers": {FIRST: {"format": kind}}})
        save_file(weights, tmp_path / "a.safetensors", {"_quantization_metadata": layers})
        if fits:
            assert read_configs(SingleFile(tmp_path / "a.safetensors", tiny_checkpoint))
            continue
        with pytest.raises(ExportError, match="_quantization_metadata of .*time_embed.*'mxfp8'"):
            read_configs(SingleFile(tmp_path / "a.safetensors", tiny_checkpoint))


def test_what_training_left_is_no_error(tiny_checkpoint: Path, tmp_path: Path, weights: Weights) -> None:
    idle = (
        *("model_ema.decay", "model_ema.diffusion_modeltime_embed0weight", "betas", "posterior_variance", "logvar"),
        *("sqrt_one_minus_alphas_cumprod", "denoiser.sigmas", "first_stage_model.loss.logvar", "lvlb_weights"),
        *("cond_stage_model.transformer.text_model.embeddings.position_ids", "cond_stage_model.logit_scale"),
        "cond_stage_model.transformer.text_projection.weight",
    )
    save_file(weights | {name: torch.ones(3) for name in idle}, tmp_path / "a.safetensors")
    checkpoint = load_checkpoint(SingleFile(tmp_path / "a.safetensors", tiny_checkpoint))
    expected = load_checkpoint(tiny_checkpoint)
    for part in ("unet", "vae", "text_encoder"):
        found = checkpoint.load(part).state_dict()
        assert all(torch.equal(found[name], each) for name, each in expected.load(part).state_dict().items())


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("unet", "conv_in.scale_weight", "quantized weights of the unet: conv_in.scale_weight"),
        ("unet", "conv_in.weight_scale", "quantized weights of the unet: conv_in.weight_scale"),
        ("text_encoder", "text_model.final_layer_norm.SCB", "quantized weights of the text_encoder: .*SCB"),
        ("unet", "bonus.weight", "has no place for the tensor bonus.weight"),
        ("vae", "bonus.weight", "has no place for the tensor bonus.weight"),
        ("text_encoder", "bonus.weight", "has no place for the tensor bonus.weight"),
        ("vae", "loss.logvar", None),
        ("text_encoder", "text_projection.weight", None),
        ("text_encoder", "text_model.embeddings.position_ids", None),
    ],
)
def test_tensors_in_a_folder(tiny_checkpoint: Path, tmp_path: Path, part: str, name: str, message: str | None) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    file = next((folder / part).glob("*.safetensors"))
    save_file(load_file(file) | {name: torch.ones(1, 16)}, file, {"format": "pt"})
    if message is None:
        assert load_checkpoint(folder).load(part)
        return
    with pytest.raises(ExportError, match=message) as refused:
        load_checkpoint(folder).load(part)
    assert refused.value.hint


SIDES = st.lists(st.integers(1, 400), min_size=1, max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(weight=SIDES, scale=st.lists(st.integers(1, 5), max_size=4))
def test_every_shape_of_a_scale_spreads_or_is_refused(weight: list[int], scale: list[int]) -> None:
    try:
        shape, block = expand_shape("scale", scale, weight)
    except ExportError:
        assert set(scale) - {1}  # one number is always plain
        return
    assert len(shape) == len(block) == len(weight)
    assert torch.Size(shape).numel() == torch.Size(scale).numel()
    assert all(
        count * size >= side > (count - 1) * size for count, size, side in zip(shape, block, weight, strict=True)
    )


@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(weight=st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_blocks_of_128_may_be_cut_off_at_the_edge(weight: tuple[int, int]) -> None:
    scale = tuple(-(-side // 128) for side in weight)
    shape, block = expand_shape("scale", scale, weight)
    assert (shape, block) == ((1, 1), weight) if scale == (1, 1) else shape[0] * block[0] >= weight[0]


def test_two_scales_of_one_weight() -> None:
    header = {"a.weight": StoredTensor("F8_E4M3", (2, 2), 0, 4), "a.scale_weight": StoredTensor("F32", (), 4, 8)}
    assert find_scales(header) == {"a.weight": "a.scale_weight"}
    with pytest.raises(ExportError, match="a.weight has two scales"):
        find_scales(header | {"a.weight_scale": StoredTensor("F32", (), 8, 12)})
    assert not is_quantized("a.weight")
