"""Write what a run has learned as a checkpoint: `python -m training.photos.export RUN OUTPUT`."""

from __future__ import annotations

from pathlib import Path

import click

from training.demo.checkpoints import load_state
from training.demo.networks import new_scheduler
from training.demo.train import write_checkpoint
from training.photos.compose import SceneComposer
from training.photos.model import CELL, DECODER_STEPS, MODEL_INDEX, add_decoder, load_networks
from training.photos.pool import PhotoPool


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--decoder-steps", default=DECODER_STEPS, show_default=True, help="Steps that the decoder is trained.")
def main(run: Path, output: Path, decoder_steps: int) -> None:
    """Write the averaged weights of RUN to OUTPUT, in half precision, as diffusers lays out Stable Diffusion.

    The image encoder gets a decoder, for a look at what is generated.
    """
    unet, text_encoder, encoder, _ = load_networks(run / "start")
    state = load_state(run / "state.pt")
    if state is None:
        raise click.ClickException(f"{run} holds no state: expected state.pt; train first")
    unet.load_state_dict(state["denoiser_average"])
    text_encoder.load_state_dict(state["text_encoder_average"])
    composer = SceneComposer(PhotoPool.load(run / "pool/train"), unet.config.sample_size * CELL)
    whole = add_decoder(encoder, composer, decoder_steps)
    networks = {"unet": unet, "text_encoder": text_encoder, "vae": whole}
    write_checkpoint(output, networks, new_scheduler(), run / "start/tokenizer", MODEL_INDEX)
    click.echo(f"{output}: {state['samples']} samples")


if __name__ == "__main__":
    main()
