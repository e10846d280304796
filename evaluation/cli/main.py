"""Entry point of the ``magicvideo`` program and the one place where errors become sentences."""

import logging
import sys

import typer

from arena.errors import ArenaError
from evaluation.cli import arena, bench, db, preferences, prompts, sprites, study, systems, train
from evaluation.cli.ablate import ablate
from evaluation.cli.compare import baseline_app, compare
from evaluation.cli.cost import cost
from evaluation.cli.demo import demo
from evaluation.cli.generate import generate
from evaluation.cli.improve import improve
from evaluation.cli.report import report
from evaluation.cli.score import metrics_app, score
from evaluation.errors import EvaluationError
from magicvideo.errors import MagicVideoError
from metrics.errors import MetricError

# Libraries whose notices say nothing a user of this program could act on.
CHATTY = ("alembic", "diffusers.models.modeling_utils", "diffusers.configuration_utils", "httpx")

app = typer.Typer(
    name="magicvideo",
    help="Is this text-to-video system, or this stage of it, better than that one, by how much, and how sure are we?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(generate)
app.command()(cost)
app.command()(score)
app.command()(compare)
app.command()(ablate)
app.command()(report)
app.command()(demo)
app.command()(improve)
app.add_typer(study.app, name="study")
app.add_typer(arena.app, name="arena")
app.add_typer(db.app, name="db")
app.add_typer(metrics_app, name="metrics")
app.add_typer(train.app, name="train")
app.add_typer(sprites.app, name="sprites")
app.add_typer(baseline_app, name="baseline")
app.add_typer(bench.app, name="bench")
app.add_typer(prompts.app, name="prompts")
app.add_typer(systems.app, name="systems")
app.add_typer(preferences.app, name="preferences")


def main() -> None:
    """Run the program; a foreseen failure ends in one sentence on stderr and exit status 1."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app()
    except (ArenaError, EvaluationError, MagicVideoError, MetricError) as error:
        sys.exit(f"magicvideo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
