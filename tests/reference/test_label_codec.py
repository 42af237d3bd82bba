"""Label codecs: what they keep of a mask, what the runtime's half makes of it, and what they refuse."""

import json

import numpy as np
import pytest
import torch

from segrefine.assets import demo_checkpoint
from segrefine.errors import BundleError, ExportError
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.label_codec import CODEC_FILE, AreaCodec, VaeCodec, describe_codec, read_codec, write_codec
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.label_codec import label_decoder


@pytest.fixture(scope="module")
def vae():
    return load_checkpoint(demo_checkpoint()).vae


def codecs(vae):
    return {
        "fold 4": AreaCodec(fold=4, scale=0.25, vae_scale_factor=4),
        "fold 2": AreaCodec(fold=2, scale=0.5, vae_scale_factor=4),
        "area": AreaCodec(fold=1, scale=1.0, vae_scale_factor=4),
        "vae": VaeCodec(vae=vae, scale=0.5),
    }


def disc(x, y, radius):
    rows, columns = np.mgrid[:64, :64]
    return torch.from_numpy(((columns - x) ** 2 + (rows - y) ** 2 < radius**2).astype(np.float32))


MASKS = torch.stack([disc(20, 30, 14), disc(40, 22, 9), torch.zeros(64, 64)])[:, None]


@pytest.mark.parametrize(("name", "kept"), [("fold 4", 1.0), ("fold 2", 0.9), ("area", 0.8), ("vae", 0.9)])
@torch.no_grad()
def test_a_mask_survives(vae, name, kept):
    codec = codecs(vae)[name]
    latents = codec.encode(MASKS)
    assert latents.shape == (3, codec.channels, 16, 16)
    decoded = torch.nn.functional.interpolate(codec.decode(latents), (64, 64), mode="bilinear")
    assert decoded.min() >= 0 and decoded.max() <= 1
    for ours, mask in zip(decoded[:, 0].numpy() > 0.5, MASKS[:, 0].numpy() > 0.5, strict=True):
        assert iou(ours, mask) >= kept


@pytest.mark.parametrize("name", ["fold 4", "fold 2", "area", "vae"])
@torch.no_grad()
def test_runtime_decodes_the_same(vae, name):
    codec = codecs(vae)[name]
    latents = codec.encode(MASKS) + 0.05 * torch.randn(3, codec.channels, 16, 16)

    def decode_image(scaled):
        return vae.decode(torch.from_numpy(scaled) / vae.config.scaling_factor).sample.numpy()

    ours = label_decoder(describe_codec(codec), decode_image)(latents.numpy())
    np.testing.assert_allclose(ours, codec.decode(latents)[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["fold 4", "vae"])
def test_codec_is_read_back(vae, name, tmp_path):
    codec = codecs(vae)[name]
    write_codec(codec, tmp_path)
    assert read_codec(tmp_path, vae.config, lambda: vae) == codec


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"kind": "area", "scale": 1}',
        '{"kind": "area", "fold": 3, "scale": 1}',
        '{"kind": "area", "fold": 0, "scale": 1}',
        '{"kind": "area", "fold": "4", "scale": 1}',
        '{"kind": "vae", "scale": 0}',
        '{"kind": "jpeg", "scale": 1}',
    ],
)
def test_other_codecs_are_refused(vae, content, tmp_path):
    (tmp_path / CODEC_FILE).parent.mkdir()
    (tmp_path / CODEC_FILE).write_text(content)
    with pytest.raises(ExportError, match="label_codec"):
        read_codec(tmp_path, vae.config, lambda: vae)


@pytest.mark.parametrize(
    "content", [{}, {"kind": "area"}, {"kind": "jpeg", "scale": 1}, {"kind": "area", "scale": "x"}]
)
def test_runtime_refuses_other_codecs(content):
    with pytest.raises(BundleError, match="label"):
        label_decoder(json.loads(json.dumps(content)), lambda latents: latents)
