"""``magicvideo sprites``: how good the embedded checkpoint is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evaluation.errors import EvaluationError

app = typer.Typer(help="The sprites domain: what its checkpoint reaches.")

HELD_OUT_ROWS = 4  # of a contact sheet, beside the demo's prompts


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Option(help="A preset or a checkpoint folder of the domain.")
    ] = "sprites",
    folder: Annotated[
        Path, typer.Option(help="Working folder; an interrupted evaluation goes on from what is in it.")
    ] = Path("sprites-evaluation"),
    prompts: Annotated[
        int, typer.Option(min=1, help="Held-out prompts of one object that become videos.")
    ] = 256,
    references: Annotated[
        int, typer.Option(min=1, help="Held-out prompts of one object that become reference images.")
    ] = 256,
    pair_prompts: Annotated[
        int, typer.Option(min=0, help="Held-out prompts of two objects that become both.")
    ] = 64,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keeps what stages made (30 MB a prompt), for another evaluation to read again."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table there too.")] = None,
) -> None:
    """Print the table of bars on held-out prompts, the weakest first (about 15 s a prompt on two cores)."""
    import pandas
    import torch

    from magicvideo.pipeline import MagicVideoPipeline
    from magicvideo.sprites.evaluation import as_rows
    from magicvideo.sprites.evaluation import evaluate as run

    torch.set_num_threads(threads)
    pipe = MagicVideoPipeline.from_pretrained(checkpoint, cache_dir=cache)
    rows = as_rows(run(pipe, folder, prompts=prompts, references=references, pair_prompts=pair_prompts))
    shown = pandas.DataFrame(rows)[["name", "value", "low", "high", "wanted", "most", "reached", "n"]]
    typer.echo(shown.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


@app.command()
def sheet(
    file: Annotated[Path, typer.Argument(help="The picture to write: .jpg or .png.")],
    checkpoint: Annotated[
        str, typer.Option(help="A preset or a checkpoint folder of the domain.")
    ] = "sprites",
    cache: Annotated[Path | None, typer.Option(help="Keeps what stages made, as of evaluate.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Draw what every stage makes of the demo's prompts and the first four held-out ones, seed 0."""
    import torch

    from evaluation.prompts import demo_prompts
    from magicvideo.pipeline import MagicVideoPipeline
    from magicvideo.sprites.evaluation import held_out_scenes
    from magicvideo.sprites.sheet import draw

    if file.suffix.lower() not in (".jpg", ".png"):
        raise EvaluationError(f"{file} is neither .jpg nor .png; name the picture so")
    if not file.absolute().parent.is_dir():
        raise EvaluationError(f"the folder of {file} does not exist; create it first")
    torch.set_num_threads(threads)
    pipe = MagicVideoPipeline.from_pretrained(checkpoint, cache_dir=cache)
    prompts = demo_prompts() + [scene.caption for scene in held_out_scenes(HELD_OUT_ROWS, 1)]
    draw(pipe, prompts).save(file, quality=88)
    typer.echo(f"{len(prompts)} prompts in {file}")
