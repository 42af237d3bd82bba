from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

import segrefine
from segrefine.assets import demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.errors import ExportError, OutputError, SettingsError
from segrefine.export import export_bundle
from segrefine.reference.alignment import align
from segrefine.reference.attention import MaskInjection, inject_masks
from segrefine.reference.attention_maps import AttentionRecord, find_map_levels
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.features import extract_features
from segrefine.settings import G4SegSettings

TAPS = ("up_blocks.0", "up_blocks.1.attentions.0")
CHANNELS = 32 + 16
SIZES = [(1, 8, 8, 16), (3, 7, 10, 4), (2, 16, 5, 1)]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(tiny_checkpoint, tmp_path_factory.mktemp("exported") / "bundle", taps=TAPS)


def run(bundle: Bundle, component: str, feeds: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(bundle.graph(component), providers=["CPUExecutionProvider"])
    arrays = {name: each.numpy() for name, each in feeds.items()}
    bundle.manifest.components[component].check_feeds(arrays)
    return session.run(None, arrays)


def unet_feeds(batch: int, height: int, width: int, tokens: int, channels: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(batch)
    return {
        "sample": torch.randn(batch, 4, height, width),
        "timestep": torch.randint(1000, (batch,)),
        "encoder_hidden_states": torch.randn(batch, tokens, channels),
        "foreground": torch.rand(batch, 1, height, width),
        "token_indicator": torch.rand(batch, tokens, 2),
        "strength": 6 * torch.rand(batch, 2),
    }


def reference_unet(
    checkpoint_folder: Path, feeds: Mapping[str, Tensor], taps: Sequence[str] = TAPS
) -> tuple[Tensor, Tensor]:
    """Prediction and features of the naive reference."""
    unet = load_checkpoint(checkpoint_folder).unet
    injector = inject_masks(unet)
    sample, timestep, states, foreground, indicator, strength = feeds.values()
    with injector.apply(MaskInjection(foreground=foreground, token_indicator=indicator, strength=strength)):
        text = {"encoder_hidden_states": states}
        return unet(sample, timestep, states).sample, extract_features(unet, sample, timestep, text, taps)


def assert_close(found: NDArray[np.float32], expected: Tensor, share: float = 1e-5) -> None:
    assert found.shape == tuple(expected.shape)
    assert np.abs(found - expected.numpy()).max() <= share * np.ptp(expected.numpy())


@pytest.mark.parametrize("sizes", SIZES)
def test_unet_is_the_naive_reference_at_any_size(
    bundle: Bundle, tiny_checkpoint: Path, sizes: tuple[int, int, int, int]
) -> None:
    feeds = unet_feeds(*sizes)
    expected_sample, expected_features = reference_unet(tiny_checkpoint, feeds)
    out_sample, features = run(bundle, "unet", feeds)
    assert_close(out_sample, expected_sample)
    assert_close(features, expected_features)
    (truncated,) = run(bundle, "unet_features", feeds)
    assert_close(truncated, expected_features)


def test_text_encoder_and_vae_are_torch_s(bundle: Bundle, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    vae, scale = checkpoint.vae, checkpoint.vae.config.scaling_factor
    torch.manual_seed(0)
    ids, image, latents = torch.randint(514, (3, 16)), torch.rand(2, 3, 12, 18) * 2 - 1, torch.randn(1, 4, 9, 6)
    assert_close(run(bundle, "text_encoder", {"input_ids": ids})[0], checkpoint.text_encoder(ids).last_hidden_state)
    assert_close(run(bundle, "vae_encoder", {"sample": image})[0], vae.encode(image).latent_dist.mean * scale)
    assert_close(run(bundle, "vae_decoder", {"latent_sample": latents})[0], vae.decode(latents / scale).sample)


def test_alignment_is_the_reference(bundle: Bundle) -> None:
    torch.manual_seed(0)
    original, generated = torch.nn.functional.normalize(torch.randn(2, 2, 15, CHANNELS), dim=3)
    maps = torch.rand(2, 2, 1, 3, 5)
    feeds = {
        "features_original": original,
        "features_generated": generated,
        "foreground": maps[0],
        "evidence": maps[1],
        "parameters": torch.tensor([[0.1, 0.7, 0.4, 0.5], [0.2, 1.0, 0.5, 0.0]]),
    }
    for found, expected in zip(run(bundle, "alignment", feeds), align(*feeds.values()), strict=True):
        assert_close(found, expected)


def test_truncated_graph_shares_its_weights(bundle: Bundle, tiny_checkpoint: Path) -> None:
    whole, truncated = (onnx.load(bundle.graph(name), load_external_data=False) for name in ("unet", "unet_features"))
    assert len(truncated.graph.node) < len(whole.graph.node)
    assert any("conv_out" in each.name for each in whole.graph.initializer)
    assert not any("conv_out" in each.name for each in truncated.graph.initializer)
    files = [name for name in bundle.manifest.files if name.startswith("unet/")]
    assert files == ["unet/attention.onnx", "unet/features.onnx", "unet/model.onnx", "unet/model.onnx_data"]
    parameters = sum(each.numel() for each in load_checkpoint(tiny_checkpoint).unet.parameters())
    assert bundle.manifest.files["unet/model.onnx_data"].size < 1.1 * 2 * parameters  # float16, and each once


@pytest.mark.parametrize("sizes", SIZES)
def test_attention_is_that_of_the_reference_at_any_size(
    bundle: Bundle, tiny_checkpoint: Path, sizes: tuple[int, int, int, int]
) -> None:
    feeds, unet = unet_feeds(*sizes), load_checkpoint(tiny_checkpoint).unet
    sample, timestep, states, foreground, indicator, strength = feeds.values()
    record = AttentionRecord(levels=find_map_levels(unet.config), depth=2)
    given = MaskInjection(foreground=foreground, token_indicator=indicator, strength=strength)
    with torch.no_grad(), inject_masks(unet).apply(given, record):
        unet(sample, timestep, states)
    for found, expected in zip(run(bundle, "unet_attention", feeds), record.maps(sample.shape[2:]), strict=True):
        assert_close(found, expected)


def test_nobody_pays_for_attention_that_is_not_asked_for(bundle: Bundle) -> None:
    kinds = {name: [node.op_type for node in onnx.load(bundle.graph(name), load_external_data=False).graph.node]
             for name in ("unet", "unet_features", "unet_attention")}  # fmt: skip
    assert "Softmax" in kinds["unet_attention"]
    assert "Softmax" not in kinds["unet"] + kinds["unet_features"]  # attention is one op there
    assert bundle.manifest.components["unet_attention"].inputs == bundle.manifest.components["unet"].inputs
    assert not (bundle.path / "unet" / "whole.onnx").exists()


def test_manifest_says_what_the_bundle_holds(bundle: Bundle) -> None:
    manifest = Bundle.open(bundle.path).manifest
    assert manifest.ops == ("ai.segrefine::MaskedAttention", "ai.segrefine::PixelHausdorff")
    assert (manifest.sample_size, manifest.latent_channels, manifest.vae_scale_factor, manifest.tokens) == (8, 4, 2, 16)
    assert (manifest.prediction_type, manifest.dtype, manifest.feature_taps) == ("v_prediction", "fp32", TAPS)
    assert G4SegSettings.from_dict(manifest.settings) == G4SegSettings(feature_timestep=261)  # of Stable Diffusion
    assert manifest.versions["segrefine"] == segrefine.__version__
    assert manifest.components["unet"].outputs[1].shape == ("batch", "pixels", CHANNELS)
    bundle.verify()


def test_tokenizer_and_schedule_travel_along(bundle: Bundle, tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundle.file("tokenizer/tokenizer.json")))
    expected = load_checkpoint(tiny_checkpoint).tokenizer("A \u00e9 fox!").input_ids
    assert tokenizer.encode("A \u00e9 fox!").ids == expected
    schedule = bundle.read_json("scheduler/scheduler_config.json")
    assert schedule == json.loads((tiny_checkpoint / "scheduler" / "scheduler_config.json").read_text())


def test_graphs_carry_no_trace_of_the_machine(bundle: Bundle) -> None:
    for relative in bundle.manifest.files:
        content = bundle.file(relative).read_bytes()
        assert b"site-packages" not in content and str(Path(segrefine.__file__).parent).encode() not in content, (
            relative
        )


def test_half_precision_computes_in_half_and_speaks_single(half_demo_bundle: Callable[[str], Path]) -> None:
    bundle = Bundle.open(half_demo_bundle("demo"))
    feeds = unet_feeds(*SIZES[1], channels=128)
    (features,) = run(bundle, "unet_features", feeds)
    _, expected = reference_unet(demo_checkpoint(), feeds, bundle.manifest.feature_taps)
    assert_close(features, expected, share=2e-2)
    assert features.dtype == np.float32 and np.abs(features - expected.numpy()).max() > 1e-5
    assert bundle.manifest.dtype == "fp16"


def test_a_weight_past_half_precision_is_found_at_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(tiny_checkpoint, folder)
    encoder = load_checkpoint(tiny_checkpoint).text_encoder
    [weight] = [each for name, each in encoder.named_parameters() if name.endswith("layers.0.mlp.fc2.weight")]
    with torch.no_grad():
        weight[0, 0] = 1e6
    encoder.save_pretrained(folder / "text_encoder")
    options: dict[str, Any] = {"dtype": "fp16", "components": ["text_encoder"]}
    with pytest.raises(
        ExportError, match=r"mlp\.fc2\.weight is too large for half precision: expected at most 65504, got 1e\+06"
    ) as refused:
        export_bundle(folder, tmp_path / "half", **options)
    assert refused.value.hint == "export with --fp32-components text_encoder"
    bundle = export_bundle(folder, tmp_path / "half", fp32_components=["text_encoder"], **options)
    ids = torch.randint(514, (3, 16), generator=torch.Generator().manual_seed(0))
    expected = load_checkpoint(folder).text_encoder(ids).last_hidden_state
    assert_close(run(bundle, "text_encoder", {"input_ids": ids})[0], expected)


def test_exceptions_to_half_precision_without_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="only applies to dtype fp16"):
        export_bundle(tiny_checkpoint, tmp_path / "b", fp32_components=["unet"])


def test_an_interrupted_export_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def interrupt(message: str) -> None:
        seen.append(message)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(tiny_checkpoint, tmp_path / "b", components=["alignment", "unet"], taps=TAPS, progress=interrupt)
    assert seen == ["exporting alignment", "exporting unet"]
    assert not list(tmp_path.iterdir())


def test_a_difference_past_tolerance_names_the_tensor(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError,
        match=r"alignment: output '\w+': it differs from torch: .* of its range, got \d\.\de-\d+",
    ):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", components=["alignment"], atol=0)
    assert not list(tmp_path.iterdir())


def test_bad_requests_are_named(bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown component 'unett'"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", components=["unett"])
    with pytest.raises(SettingsError, match=r"got 'up_blocks\.7'"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", components=["unet"], taps=["up_blocks.7"])
    with pytest.raises(OutputError, match="exists already"):
        export_bundle(tiny_checkpoint, bundle.path)
    with pytest.raises(ExportError, match="expected a diffusers checkpoint"):
        export_bundle(tmp_path, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
