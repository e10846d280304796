"""Comparisons that were decided, codes by which people let themselves in, comments that can be erased.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

APPEND_ONLY = "votes is append-only"
VOTE_COLUMNS = (
    "id, assignment_id, evaluator_id, origin, criterion, rev, raw_choice, a_on_left, outcome, client_token,"
    " rt_ms, watched_left_ms, watched_right_ms, created_at"
)


def _refuse(name: str, event: str, when: str = "") -> None:
    """Make a trigger on votes that refuses an event, in words."""
    if op.get_context().dialect.name == "postgresql":
        call = f"FOR EACH ROW {when} EXECUTE FUNCTION refuse_change('{APPEND_ONLY}')"
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON votes {call}")
    else:
        body = f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON votes {when} {body}")


def _drop(name: str) -> None:
    postgresql = op.get_context().dialect.name == "postgresql"
    op.execute(f"DROP TRIGGER {name}{' ON votes' if postgresql else ''}")


def upgrade() -> None:
    """Add the column and the table; of a vote, the comment may be emptied and nothing else changed."""
    op.add_column("study_systems", sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "registration_codes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("places_left", sa.Integer(), nullable=False),
        sa.Column("quota", sa.Integer(), nullable=True),
        sa.Column("cohort", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "places_left >= 0 AND places_left <= places", name=op.f("ck_registration_codes_places")
        ),
        sa.CheckConstraint("quota IS NULL OR quota > 0", name=op.f("ck_registration_codes_quota_positive")),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["studies.id"],
            name=op.f("fk_registration_codes_study_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registration_codes")),
        sa.UniqueConstraint("code_hash", name=op.f("uq_registration_codes_code_hash")),
    )
    _drop("tr_votes_no_update")
    _refuse("tr_votes_no_update", f"UPDATE OF {VOTE_COLUMNS}")
    _refuse("tr_votes_comment", "UPDATE OF comment", "WHEN (NEW.comment <> '')")


def downgrade() -> None:
    """Take everything back; erased comments stay erased."""
    _drop("tr_votes_comment")
    _drop("tr_votes_no_update")
    _refuse("tr_votes_no_update", "UPDATE")
    op.drop_table("registration_codes")
    op.drop_column("study_systems", "stopped_at")
