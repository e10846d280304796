"""``magicvideo train``: make the embedded checkpoint again from nothing."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the parts of a checkpoint; every stage resumes where it was interrupted.")


@app.command()
def sprites(
    root: Annotated[Path, typer.Argument(help="Folder for pools, checkpoints, curves and recipes.")],
    stage: Annotated[
        list[str] | None,
        typer.Option(help="autoencoder, pools, t2i, i2v, v2v, interpolator or assemble; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the checkpoint goes; ROOT/checkpoint by default.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Train the sprites preset: all stages in order, or the ones named."""
    import torch

    from magicvideo.training.sprites import ALL_STAGES, train_stage

    torch.set_num_threads(threads)
    for name in stage or ALL_STAGES:
        train_stage(name, root, output or root / "checkpoint")
