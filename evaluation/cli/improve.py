"""``magicvideo improve``: rounds of candidates, automatic verdicts, tuning, comparison and the gate."""

from pathlib import Path
from typing import Annotated

import typer


def improve(
    root: Annotated[Path, typer.Argument(help="Folder of the run; an interrupted one goes on there.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in all, those done before included.")] = 1,
    checkpoint: Annotated[
        str, typer.Option(help="The first parent: sprites, or a sprites checkpoint.")
    ] = "sprites",
    prompts: Annotated[int, typer.Option(help="Tuning prompts of a round.")] = 96,
    seeds: Annotated[int, typer.Option(help="Candidates of each prompt.")] = 4,
    pair_share: Annotated[float, typer.Option(help="Share of all prompts that have two objects.")] = 0.0,
    held_out: Annotated[int, typer.Option(help="Prompts of the comparison, never tuned on.")] = 96,
    held_out_seeds: Annotated[int, typer.Option(help="Images of each held-out prompt and model.")] = 1,
    videos: Annotated[
        int, typer.Option(help="Held-out prompts whose whole videos are voted on and gated; 0 for none.")
    ] = 12,
    until: Annotated[str, typer.Option(help="Last stage of those videos: i2v, v2v or vfi.")] = "v2v",
    method: Annotated[
        str, typer.Option(help="How the child and its control are tuned: dpo, sft or reward-weighted.")
    ] = "dpo",
    baseline: Annotated[
        list[str] | None, typer.Option(help="Also tune and compare another method; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of tuning, e.g. beta=2000; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Gate file; see `magicvideo compare`.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and tuning.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Improve a sprites checkpoint from the sprites judge's verdicts; every verdict is marked automatic."""
    import torch

    from evaluation.gate.specification import read_gate
    from evaluation.improve import DEFAULT_GATE, REPORT_FILE, ImproveConfig
    from evaluation.improve import improve as run
    from magicvideo.training.recipe import parse_setting

    torch.set_num_threads(threads)
    config = ImproveConfig(
        checkpoint=checkpoint,
        prompts=prompts,
        seeds=seeds,
        pair_share=pair_share,
        held_out=held_out,
        held_out_seeds=held_out_seeds,
        videos=videos,
        until=until,
        method=method,
        baselines=tuple(baseline or ()),
        tuning=dict(parse_setting(text) for text in settings or ()),
        seed=seed,
    )
    spec = DEFAULT_GATE if gate is None else read_gate(gate)
    best = run(root, config, rounds=rounds, gate=spec, say=lambda line: typer.echo(line, err=True))
    typer.echo((root / REPORT_FILE).read_text(encoding="utf-8"))
    typer.echo(f"the checkpoint that stands: {best}")
