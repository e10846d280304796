"""``magicvideo train metrics``: the embedded metric models from nothing."""

from pathlib import Path
from typing import Annotated

import typer


def train_metrics(
    out: Annotated[
        Path, typer.Argument(help="Folder for clip/ and video/: weights, words, recipe and checks.")
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="clip or video alone; repeatable. Both by default.")
    ] = None,
    clips: Annotated[int, typer.Option(help="Rendered training clips.", min=1)] = 12_000,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each model.", min=1)] = None,
    validation_clips: Annotated[int, typer.Option(help="Held-out clips of the checks.", min=2)] = 512,
    seed: Annotated[int, typer.Option(help="Of scenes, weights and batches.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, mps.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Train the embedded CLIP and video-text models on sprites; the defaults are how they were made."""
    names = tuple(model or ("clip", "video"))
    if not set(names) <= {"clip", "video"}:
        raise typer.BadParameter(f"unknown model {names}; known: clip, video", param_hint="--model")
    import torch

    from evaluation.embedded_metrics import train_embedded_metrics

    torch.set_num_threads(threads)
    results = train_embedded_metrics(
        out,
        models=names,
        clips=clips,
        steps=steps,
        validation_clips=validation_clips,
        seed=seed,
        device=device,
    )
    for name, recipe in results.items():
        checks = ", ".join(f"{key} {value:.3f}" for key, value in recipe["validation"].items())
        typer.echo(f"{out / name}: {recipe['file']} after {recipe['steps']} steps; {checks}")
