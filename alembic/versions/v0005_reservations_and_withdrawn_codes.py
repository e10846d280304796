"""Reservations, the pair an evaluator will be shown next so that its clips can load early; codes can be withdrawn.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FREE_SLOTS = (
    "UPDATE pairs SET slots_left = slots_left + (SELECT COUNT(*) FROM reservations"
    " WHERE reservations.pair_id = pairs.id AND reservations.repeat_no = 0) WHERE kind = 'main'"
)


def upgrade() -> None:
    """Make the table of reservations and the column of withdrawn codes."""
    op.add_column("registration_codes", sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "reservations",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("evaluator_id", sa.Integer(), nullable=False),
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("repeat_no", sa.Integer(), nullable=False),
        sa.Column("a_on_left", sa.Boolean(), nullable=False),
        sa.Column("token", sa.String(length=26), nullable=False),
        sa.Column("nonce_left", sa.String(length=26), nullable=False),
        sa.Column("nonce_right", sa.String(length=26), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("nonce_left <> nonce_right", name=op.f("ck_reservations_two_nonces")),
        sa.ForeignKeyConstraint(
            ["study_id", "evaluator_id"],
            ["enrolments.study_id", "enrolments.evaluator_id"],
            name=op.f("fk_reservations_study_id_evaluator_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "pair_id"],
            ["pairs.study_id", "pairs.id"],
            name=op.f("fk_reservations_study_id_pair_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("study_id", "evaluator_id", name=op.f("pk_reservations")),
        sa.UniqueConstraint("token", name=op.f("uq_reservations_token")),
        sa.UniqueConstraint("nonce_left", name=op.f("uq_reservations_nonce_left")),
        sa.UniqueConstraint("nonce_right", name=op.f("uq_reservations_nonce_right")),
    )
    op.create_index("ix_reservations_lease", "reservations", ["study_id", "lease_until"])


def downgrade() -> None:
    """Take both back: the slots become free, withdrawn codes stay without effect."""
    op.execute(FREE_SLOTS)
    op.drop_table("reservations")
    op.execute("UPDATE registration_codes SET places_left = 0 WHERE revoked_at IS NOT NULL")
    op.drop_column("registration_codes", "revoked_at")
