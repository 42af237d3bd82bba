"""Progress of `photo`: the curve of a training run, and the text gate of a checkpoint.

python -m benchmarks.photo_training RUN PHOTOS CHECKPOINT    writes benchmarks/results/photo_training.*
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from benchmarks.report import estimate, markdown_table, write_result
from training.demo.captions import CaptionEncoder
from training.demo.networks import new_scheduler, use_plain_attention
from training.photos.gate import TIMESTEPS, gate_errors, photo_cases
from training.photos.model import CELL, load_networks
from training.photos.pool import build_pool
from training.photos.words import SEVEN

BAR = 0.85


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("photos", type=click.Path(path_type=Path, exists=True))
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
def main(run: Path, photos: Path, checkpoint: Path, threads: int) -> None:
    """Write the curve of RUN, and the text gate of CHECKPOINT on the validation part of PHOTOS."""
    torch.set_num_threads(threads)
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    unet, text_encoder, encoder, tokenizer = load_networks(checkpoint)
    side = unet.config.sample_size * CELL
    cases = photo_cases(build_pool(photos, run / "pool/val", split="val", side=side), side)
    use_plain_attention(unet, text_encoder)
    networks = {"denoiser": unet.eval(), "text_encoder": text_encoder.eval()}
    alphas = new_scheduler().alphas_cumprod
    errors = gate_errors(networks, encoder, CaptionEncoder(tokenizer), alphas, cases, TIMESTEPS)
    passed, numbers = (errors[0] < errors[1]).double().numpy(), torch.tensor(cases.right).numpy()
    rows = [["all", len(passed), estimate(passed)]]
    for number, name in enumerate(SEVEN, 1):
        of_class = passed[numbers == number]
        rows.append([name, len(of_class), estimate(of_class) if len(of_class) > 1 else "–"])
    ratio = float((errors[1] / errors[0]).mean())
    markdown = "\n".join(
        [
            f"Right word beats wrong word in the object's region (bar {BAR:.2f}); wrong ÷ right error {ratio:.3f}:",
            "",
            markdown_table(["class", "objects", "share"], rows),
            "",
            "During training (text gate at two noise levels):",
            "",
            _table(curve, ("diffusion", "evidence", "error", "ratio", "gate")),
        ]
    )
    click.echo(markdown)
    gate = {"gate": float(passed.mean()), "ratio": ratio, "objects": len(passed), "timesteps": TIMESTEPS, "bar": BAR}
    write_result("photo_training", gate | {"curve": curve}, markdown)


def _table(curve: list[dict[str, float]], columns: tuple[str, ...]) -> str:
    rows = [[int(line["samples"]), *(f"{line[each]:.3f}" for each in columns)] for line in curve]
    return markdown_table(["samples", *columns], rows)


if __name__ == "__main__":
    main()
