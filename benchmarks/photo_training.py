"""Progress of `photo`: the curve of a training run, and the text gate of a checkpoint.

python -m benchmarks.photo_training RUN PHOTOS CHECKPOINT    writes benchmarks/results/photo_training.*
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL

from benchmarks.report import estimate, markdown_table, write_result
from training.demo.captions import CaptionEncoder
from training.demo.networks import new_scheduler, use_plain_attention
from training.photos.gate import TIMESTEPS, gate_errors, photo_cases
from training.photos.model import PhotoDenoiser, load_emoji
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
    cases = photo_cases(build_pool(photos, run / "pool/val", split="val"))
    unet, text_encoder, tokenizer = load_emoji(checkpoint)
    use_plain_attention(unet, text_encoder)
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae").float().eval()
    networks = {"denoiser": PhotoDenoiser(unet).eval(), "text_encoder": text_encoder.eval()}
    alphas = new_scheduler().alphas_cumprod
    errors = gate_errors(networks, vae, CaptionEncoder(tokenizer), alphas, cases, TIMESTEPS)
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
            "Stage one, classes of noisy photographs (share of objects; right class against a wrong one):",
            "",
            _table(curve, "class samples", ("loss", "class@100", "pair@100", "class@350", "pair@350")),
            "",
            "Stage two, denoiser and text encoder (text gate at two noise levels):",
            "",
            _table(curve, "samples", ("diffusion", "margin", "classes", "error", "ratio", "gate")),
        ]
    )
    click.echo(markdown)
    gate = {"gate": float(passed.mean()), "ratio": ratio, "objects": len(passed), "timesteps": TIMESTEPS, "bar": BAR}
    write_result("photo_training", gate | {"curve": curve}, markdown)


def _table(curve: list[dict[str, float]], key: str, columns: tuple[str, ...]) -> str:
    lines = [line for line in curve if key in line]
    return markdown_table([key, *columns], [[int(line[key]), *(f"{line[c]:.3f}" for c in columns)] for line in lines])


if __name__ == "__main__":
    main()
