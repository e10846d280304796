"""Run the program as ``python -m evaluation.cli``."""

from evaluation.cli.main import main

main()
