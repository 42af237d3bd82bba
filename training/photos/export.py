"""Write what a run has learned as a checkpoint: `python -m training.photos.export RUN OUTPUT`."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL

from training.demo.checkpoints import load_state
from training.demo.networks import new_scheduler
from training.demo.train import MODEL_INDEX, write_checkpoint
from training.photos.model import PhotoDenoiser, load_emoji


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
def main(run: Path, output: Path) -> None:
    """Write the averaged weights of RUN to OUTPUT, in half precision, as diffusers lays out Stable Diffusion.

    `head.pt` holds the class head as well, which only training reads.
    """
    unet, text_encoder, _ = load_emoji(run / "start")
    denoiser = PhotoDenoiser(unet)
    if state := load_state(run / "state.pt"):
        text_encoder.load_state_dict(state["text_encoder_average"])
    else:
        state = load_state(run / "classes.pt")
    if state is None:
        raise click.ClickException(f"{run} holds no state: expected state.pt or classes.pt; train first")
    denoiser.load_state_dict(state["denoiser_average"])
    vae = AutoencoderKL.from_pretrained(run / "start/vae")
    networks = {"unet": denoiser.unet, "text_encoder": text_encoder, "vae": vae}
    write_checkpoint(output, networks, new_scheduler(), run / "start/tokenizer", MODEL_INDEX)
    torch.save({name: value.half() for name, value in denoiser.head.state_dict().items()}, output / "head.pt")
    click.echo(f"{output}: {state['samples']} samples")


if __name__ == "__main__":
    main()
