"""Outcomes: what became of every video that was asked for, refusals and failures included.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _key(column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [target], name=op.f(f"fk_outcomes_{column}"), ondelete="RESTRICT"
    )


def upgrade() -> None:
    """Make the table of outcomes."""
    op.create_table(
        "outcomes",
        sa.Column("system_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("video_id", sa.Integer(), nullable=True),
        sa.Column("config_digest", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("seed_used", sa.Boolean(), nullable=False),
        sa.Column("requested", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("remote_id", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('made', 'refused', 'missing', 'failed')", name=op.f("ck_outcomes_outcome")
        ),
        sa.CheckConstraint(
            "(outcome = 'made') = (video_id IS NOT NULL)", name=op.f("ck_outcomes_made_has_video")
        ),
        sa.CheckConstraint("(outcome = 'made') = (reason IS NULL)", name=op.f("ck_outcomes_video_or_reason")),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_outcomes_attempts_not_negative")),
        _key("system_id", "systems.id"),
        _key("prompt_id", "prompts.id"),
        _key("video_id", "videos.id"),
        sa.PrimaryKeyConstraint("system_id", "prompt_id", "seed", name=op.f("pk_outcomes")),
    )
    for column in ("prompt_id", "video_id"):
        op.create_index(op.f(f"ix_outcomes_{column}"), "outcomes", [column])


def downgrade() -> None:
    """Take the table back; what became of the videos stays in the records beside them."""
    op.drop_table("outcomes")
