"""``magicvideo study simulate``: run a planned study many times before a single vote is asked for."""

import json
from typing import Annotated

import typer

from evaluation.cli.study_options import (
    EvaluatorCorrelation,
    Evaluators,
    PromptCorrelation,
    Prompts,
    Ties,
    VotesPerEvaluator,
)


def simulate(
    ratio: Annotated[float, typer.Option(help="Ratio (G+S)/(B+S) the study is planned for.")],
    truth: Annotated[
        list[float] | None,
        typer.Option(
            help="True ratio; the planned one by default, 1 for false positives. Given again, of a study with"
            " several competitors, for the part on adaptive assignment."
        ),
    ] = None,
    ties: Ties = 0.2,
    evaluators: Evaluators = 61,
    prompts: Prompts = 100,
    votes_per_evaluator: VotesPerEvaluator = None,
    rho_evaluator: EvaluatorCorrelation = 0.05,
    rho_prompt: PromptCorrelation = 0.10,
    alpha: Annotated[float, typer.Option(help="Two-sided level.")] = 0.05,
    studies: Annotated[int, typer.Option(min=2, help="How many studies to run.")] = 500,
    at_once: Annotated[
        int, typer.Option(min=1, help="People who vote at the same time, with adaptive assignment.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same studies.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show how often each interval would hold the truth and decide. All numbers are simulated, none is a vote."""
    from dataclasses import asdict

    from arena import planning, simulation

    try:
        design = planning.Design(
            ratio=ratio,
            ties=ties,
            evaluators=evaluators,
            prompts=prompts,
            votes_per_evaluator=votes_per_evaluator,
            rho_evaluator=rho_evaluator,
            rho_prompt=rho_prompt,
            alpha=alpha,
        )
        truths = truth or [ratio]
        found = simulation.simulate(design, truth=truths[0], studies=studies, seed=seed)
        adaptive = simulation.simulate_adaptive(design, truths, studies=studies, seed=seed, at_once=at_once)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"adaptive": asdict(adaptive)}, indent=2, allow_nan=False))
        return
    typer.echo(f"simulated: {studies} studies of {design.votes} votes, true ratio {found.truth:g}\n")
    typer.echo(f"{'interval by':12}{'holds the truth':>17}{'excludes 1':>12}{'upper/lower':>13}")
    for row in found.fixed:
        held = f"{row.coverage:.3f} ± {row.coverage_error:.3f}"
        typer.echo(f"{row.method.replace('_', '-'):12}{held:>17}{row.decided:>12.3f}{row.width:>13.3f}")
    looks = found.sequential
    typer.echo(
        f"\nLooked at after every evaluator: decides in {looks.decided:.3f} of studies, after {looks.evaluators:.0f} "
        f"evaluators in the median, on the wrong side in {looks.wrong_side:.3f}; holds the truth at every look in "
        f"{looks.covered:.3f}."
    )
    typer.echo(
        f"\nAdaptive assignment, {at_once} people at once: decides as all votes would in {adaptive.same:.3f}, with"
        f" {adaptive.votes:.1%} of them; the ordinary interval of the votes cast holds the truth in"
        f" {adaptive.covered:.3f}.\n"
    )
    typer.echo(
        f"{'true ratio':12}{'votes':>8}{'as fixed':>10}{'finds':>8}{'fixed finds':>13}{'wrong side':>12}{'holds':>8}"
    )
    for item in adaptive.comparisons:
        typer.echo(
            f"{item.truth:<12g}{item.votes:>8.1%}{item.same:>10.3f}{item.decided:>8.3f}{item.decided_fixed:>13.3f}"
            f"{item.wrong_side:>12.3f}{item.covered:>8.3f}"
        )
