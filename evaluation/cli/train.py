"""``magicvideo train``: the embedded checkpoint from nothing, or one part on top of any checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from evaluation.cli.train_metrics import train_metrics


class RecipeGroup(TyperGroup):
    """Take ``train FILE.yaml ...`` for ``train recipe FILE.yaml ...``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that ``args`` name."""
        if args and Path(args[0]).suffix.lower() in (".yaml", ".yml"):
            args = ["recipe", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=RecipeGroup,
    help="Train the parts of a checkpoint; an interrupted run goes on where it was. "
    "`train RECIPE.yaml OUT` runs a recipe.",
    no_args_is_help=True,
)

Out = Annotated[Path | None, typer.Argument(help="Folder for the trained part, curve, sheets and state.")]
RecipeFile = Annotated[str | None, typer.Option("--recipe", help="A YAML recipe, or a shipped one by name.")]
Checkpoint = Annotated[str | None, typer.Option(help="What to start from: a preset, a folder or a hub id.")]
Data = Annotated[str | None, typer.Option(help="sprites, or a folder of videos with captions.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the recipe, e.g. data.size=256; repeatable.", metavar="KEY=VALUE"),
]
Device = Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, mps.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of encoded clips; OUT/latents by default.")]
Threads = Annotated[int, typer.Option(help="Threads of torch.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Build everything without weights, take one step, say what it costs."),
]


@app.command()
def sprites(
    root: Annotated[Path, typer.Argument(help="Folder for pools, checkpoints, curves and recipes.")],
    everything: Annotated[bool, typer.Option("--all", help="All stages in their order.")] = False,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="One stage, e.g. v2v; repeatable. An unknown one lists them all."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the checkpoint goes; ROOT/checkpoint by default.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Train the embedded checkpoint from nothing: all stages in order, or the ones named."""
    if everything == bool(stage):
        raise typer.BadParameter("give either --all or --stage")
    import torch

    from magicvideo.training.durations import describe
    from magicvideo.training.sprites import ALL_STAGES, train_stage

    torch.set_num_threads(threads)
    names = list(stage or ALL_STAGES)
    typer.echo(describe(names), err=True)
    for name in names:
        train_stage(name, root, output or root / "checkpoint", device)


@app.command("recipe")
def train_recipe(
    file: Annotated[str, typer.Argument(help="A YAML recipe, or a shipped one by name.")],
    out: Out = None,
    checkpoint: Checkpoint = None,
    data: Data = None,
    steps: Steps = None,
    settings: Settings = None,
    device: Device = "cpu",
    cache: Cache = None,
    threads: Threads = 1,
    dry_run: DryRun = False,
) -> None:
    """Train what a recipe says; options take the place of its keys."""
    changes = {"checkpoint": checkpoint, "data__source": data, "steps": steps}
    _train(None, file, out, changes, settings, device, cache, threads, dry_run)


@app.command()
def preference(
    preferences: Annotated[
        Path, typer.Argument(help="Preference set that `preferences export` or `improve` wrote.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter, curve and state.")],
    checkpoint: Annotated[str, typer.Option(help="What is tuned, and the reference.")] = "sprites",
    method: Annotated[str, typer.Option(help="dpo, or a baseline: sft, reward-weighted.")] = "dpo",
    stages: Annotated[
        str, typer.Option(help="t2i: text-to-image alone; all: the spatial layers of every stage.")
    ] = "t2i",
    layers: Annotated[str, typer.Option(help="spatial, or spatial+motion (from videos).")] = "spatial",
    beta: Annotated[float, typer.Option(help="Bond to the reference, Salesforce's convention.")] = 5000.0,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 400,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option, e.g. rank=16; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Tune a low-rank adapter on preferences; load it with from_pretrained(..., adapter=OUT/adapter)."""
    import torch

    from magicvideo.training.preference import ADAPTER, preference_config, tune
    from magicvideo.training.recipe import parse_setting

    torch.set_num_threads(threads)
    named = {"checkpoint": checkpoint, "method": method, "stages": stages, "layers": layers}
    config = preference_config(
        named | {"beta": beta, "steps": steps} | dict(map(parse_setting, settings or ()))
    )
    result = tune(config, preferences, out, device=device)
    monitored = result.get("monitored")
    last = monitored[-1] if isinstance(monitored, list) and monitored else {}
    typer.echo(f"{out / ADAPTER}: {method} after {steps} steps, {last}")


@app.command()
def recipes() -> None:
    """List the recipes that come with the program, at the paper's scale."""
    from magicvideo.training.recipe import shipped_recipes

    for name, path in shipped_recipes().items():
        comment = " ".join(line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
        typer.echo(f"{name:18} {comment.split('. ')[0].rstrip('.')}")


def _part_command(part: str, summary: str) -> None:
    def command(
        out: Out = None,
        recipe: RecipeFile = None,
        checkpoint: Checkpoint = None,
        data: Data = None,
        steps: Steps = None,
        settings: Settings = None,
        device: Device = "cpu",
        cache: Cache = None,
        threads: Threads = 1,
        dry_run: DryRun = False,
    ) -> None:
        changes = {"part": part, "checkpoint": checkpoint, "data__source": data, "steps": steps}
        _train(part, recipe, out, changes, settings, device, cache, threads, dry_run)

    app.command(part, help=summary)(command)


for _part, _summary in {
    "t2i": "Train the spatial layers on captioned images.",
    "i2v": "Train I2V's motion modules, jointly on clips and images if image_ratio says so.",
    "appearance": "Train the appearance encoder; writes an IP-Adapter file.",
    "controlnet": "Train the ControlNet on the reference image's pixels.",
    "v2v": "Train V2V's motion modules on high-resolution clips with degraded input.",
}.items():
    _part_command(_part, _summary)
app.command("metrics")(train_metrics)


def _train(
    part: str | None,
    file: str | None,
    out: Path | None,
    changes: dict[str, Any],
    settings: list[str] | None,
    device: str,
    cache: Path | None,
    threads: int,
    dry_run: bool,
) -> None:
    if out is None and not dry_run:
        raise typer.BadParameter("give OUT, the folder to train into, or --dry-run")
    from magicvideo.training.recipe import find_recipe, make_recipe, parse_setting, read_recipe

    changes |= dict(parse_setting(text) for text in settings or ())
    recipe = read_recipe(find_recipe(file), **changes) if file else make_recipe({}, **changes)

    import torch

    torch.set_num_threads(threads)
    if dry_run:
        from magicvideo.training.dry_run import dry_run as estimate

        typer.echo(estimate(recipe).table(recipe))
        return
    out = out or Path()
    if recipe.part == "vfi":
        from magicvideo.training.vfi_folder import train_vfi_on_folder

        result = train_vfi_on_folder(recipe, out, device=device)
    else:
        from magicvideo.training.finetune import finetune

        result = finetune(recipe, out, device=device, cache=cache)
    monitored = result.get("monitored")
    last = monitored[-1] if isinstance(monitored, list) and monitored else {}
    typer.echo(f"{out}: {recipe.part} after {recipe.steps} steps, {last}")
