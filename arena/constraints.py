"""Conditions and links that the tables of `arena.models` are declared with."""

from sqlalchemy import ForeignKey, ForeignKeyConstraint


def one_of(column: str, *values: str) -> str:
    """Return the condition that a column holds one of these values."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def exactly_one(*columns: str) -> str:
    """Return the condition that all but one of these columns are null."""
    counted = " + ".join(f"(CASE WHEN {column} IS NULL THEN 0 ELSE 1 END)" for column in columns)
    return f"{counted} = 1"


def row(target: str) -> ForeignKey:
    """Point at a row that must stay."""
    return ForeignKey(target, ondelete="RESTRICT")


def rows(table: str, *links: str) -> ForeignKeyConstraint:
    """Point at a row by several columns at once, given as ``ours=theirs``."""
    ours, theirs = zip(*(link.split("=") for link in links), strict=True)
    return ForeignKeyConstraint(ours, [f"{table}.{column}" for column in theirs], ondelete="RESTRICT")
