"""Entry point of the ``magicvideo`` program and the one place where errors become sentences."""

import logging
import sys

import typer

from arena.errors import ArenaError
from evaluation.errors import EvaluationError
from magicvideo.errors import MagicVideoError
from metrics.errors import MetricError

app = typer.Typer(
    name="magicvideo",
    help="Is this text-to-video system, or this stage of it, better than that one, by how much, and how sure are we?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the program; a foreseen failure ends in one sentence on stderr and exit status 1."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        app()
    except (ArenaError, EvaluationError, MagicVideoError, MetricError) as error:
        sys.exit(f"magicvideo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
