"""First schema: systems, videos, scores, studies, votes, and the triggers that keep votes as they were cast.

Revision ID: 0001
Revises:
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _catalogue() -> None:
    """Make the tables of systems, prompts, runs, media, videos and scores."""
    op.create_table(
        "systems",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("config_digest", sa.Text(), nullable=True),
        sa.CheckConstraint("name <> ''", name=op.f("ck_systems_name_given")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_systems")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_systems_name_version")),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("text_sha256", name=op.f("uq_prompts_text_sha256")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("system_id", sa.Integer(), nullable=False),
        sa.Column("config_digest", sa.Text(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("git_commit", sa.Text(), nullable=True),
        sa.Column("git_dirty", sa.Boolean(), nullable=True),
        sa.Column("packages", sa.JSON(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'finished', 'failed')", name=op.f("ck_runs_state")),
        sa.ForeignKeyConstraint(
            ["system_id"], ["systems.id"], name=op.f("fk_runs_system_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_system_id"), "runs", ["system_id"], unique=False)
    op.create_table(
        "media",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(CASE WHEN data IS NULL THEN 0 ELSE 1 END) + (CASE WHEN url IS NULL THEN 0 ELSE 1 END) = 1",
            name=op.f("ck_media_data_or_url"),
        ),
        sa.CheckConstraint("byte_size > 0", name=op.f("ck_media_byte_size_positive")),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_media_sha256_length")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_media")),
    )
    op.create_table(
        "videos",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("system_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("media_sha256", sa.String(length=64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("fps_num", sa.Integer(), nullable=False),
        sa.Column("fps_den", sa.Integer(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "fps_num > 0 AND fps_den > 0 AND duration_ms >= 0", name=op.f("ck_videos_timing_positive")
        ),
        sa.CheckConstraint(
            "width > 0 AND height > 0 AND frames > 0", name=op.f("ck_videos_geometry_positive")
        ),
        sa.ForeignKeyConstraint(
            ["media_sha256"], ["media.sha256"], name=op.f("fk_videos_media_sha256"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_videos_prompt_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_videos_run_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["system_id"], ["systems.id"], name=op.f("fk_videos_system_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_videos")),
        sa.UniqueConstraint("id", "system_id", "prompt_id", name=op.f("uq_videos_id_system_id_prompt_id")),
        sa.UniqueConstraint(
            "system_id",
            "prompt_id",
            "seed",
            "variant",
            name=op.f("uq_videos_system_id_prompt_id_seed_variant"),
        ),
    )
    op.create_index(op.f("ix_videos_media_sha256"), "videos", ["media_sha256"], unique=False)
    op.create_index(op.f("ix_videos_prompt_id"), "videos", ["prompt_id"], unique=False)
    op.create_index(op.f("ix_videos_run_id"), "videos", ["run_id"], unique=False)
    op.create_table(
        "scores",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("video_id", sa.Integer(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("system_id", sa.Integer(), nullable=True),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(CASE WHEN video_id IS NULL THEN 0 ELSE 1 END)"
            " + (CASE WHEN run_id IS NULL THEN 0 ELSE 1 END)"
            " + (CASE WHEN system_id IS NULL THEN 0 ELSE 1 END) = 1",
            name=op.f("ck_scores_one_subject"),
        ),
        sa.CheckConstraint("(value IS NULL) = (reason IS NOT NULL)", name=op.f("ck_scores_value_or_reason")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_scores_run_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["system_id"], ["systems.id"], name=op.f("fk_scores_system_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["video_id"], ["videos.id"], name=op.f("fk_scores_video_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scores")),
        sa.UniqueConstraint("run_id", "metric", "signature", name=op.f("uq_scores_run_id_metric_signature")),
        sa.UniqueConstraint(
            "system_id", "metric", "signature", name=op.f("uq_scores_system_id_metric_signature")
        ),
        sa.UniqueConstraint(
            "video_id", "metric", "signature", name=op.f("uq_scores_video_id_metric_signature")
        ),
    )


def _studies() -> None:
    """Make the tables of studies, what they show and to whom."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("protocol", sa.JSON(), nullable=False),
        sa.Column("protocol_sha256", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('arena', 'imported')", name=op.f("ck_studies_kind")),
        sa.CheckConstraint("slug <> ''", name=op.f("ck_studies_slug_given")),
        sa.CheckConstraint("state IN ('draft', 'open', 'paused', 'closed')", name=op.f("ck_studies_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("slug", name=op.f("uq_studies_slug")),
    )
    op.create_table(
        "study_systems",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("system_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.CheckConstraint("role IN ('candidate', 'competitor')", name=op.f("ck_study_systems_role")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_systems_study_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["system_id"], ["systems.id"], name=op.f("fk_study_systems_system_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("study_id", "system_id", name=op.f("pk_study_systems")),
    )
    op.create_index(
        "uq_study_systems_candidate",
        "study_systems",
        ["study_id"],
        unique=True,
        sqlite_where=sa.text("role = 'candidate'"),
        postgresql_where=sa.text("role = 'candidate'"),
    )
    op.create_table(
        "study_prompts",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.CheckConstraint("split IN ('main', 'training', 'gold')", name=op.f("ck_study_prompts_split")),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_study_prompts_prompt_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_study_prompts_study_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("study_id", "prompt_id", name=op.f("pk_study_prompts")),
    )
    op.create_table(
        "presentations",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("video_id", sa.Integer(), nullable=False),
        sa.Column("media_sha256", sa.String(length=64), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["media_sha256"],
            ["media.sha256"],
            name=op.f("fk_presentations_media_sha256"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_presentations_study_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["video_id"], ["videos.id"], name=op.f("fk_presentations_video_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("study_id", "video_id", name=op.f("pk_presentations")),
    )
    op.create_table(
        "pairs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("video_a", sa.Integer(), nullable=False),
        sa.Column("system_a", sa.Integer(), nullable=False),
        sa.Column("video_b", sa.Integer(), nullable=False),
        sa.Column("system_b", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("expected", sa.SmallInteger(), nullable=True),
        sa.Column("target_votes", sa.Integer(), nullable=False),
        sa.Column("slots_left", sa.Integer(), nullable=False),
        sa.CheckConstraint("(kind = 'gold') = (expected IS NOT NULL)", name=op.f("ck_pairs_gold_has_answer")),
        sa.CheckConstraint("kind IN ('main', 'training', 'gold')", name=op.f("ck_pairs_kind")),
        sa.CheckConstraint("expected IN (-1, 0, 1)", name=op.f("ck_pairs_expected")),
        sa.CheckConstraint("slots_left >= 0 AND slots_left <= target_votes", name=op.f("ck_pairs_slots")),
        sa.CheckConstraint("system_a <> system_b", name=op.f("ck_pairs_two_systems")),
        sa.ForeignKeyConstraint(
            ["study_id", "prompt_id"],
            ["study_prompts.study_id", "study_prompts.prompt_id"],
            name=op.f("fk_pairs_study_id_prompt_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "system_a"],
            ["study_systems.study_id", "study_systems.system_id"],
            name=op.f("fk_pairs_study_id_system_a"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "system_b"],
            ["study_systems.study_id", "study_systems.system_id"],
            name=op.f("fk_pairs_study_id_system_b"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_pairs_study_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["video_a", "system_a", "prompt_id"],
            ["videos.id", "videos.system_id", "videos.prompt_id"],
            name=op.f("fk_pairs_video_a_system_a_prompt_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["video_b", "system_b", "prompt_id"],
            ["videos.id", "videos.system_id", "videos.prompt_id"],
            name=op.f("fk_pairs_video_b_system_b_prompt_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pairs")),
        sa.UniqueConstraint("study_id", "id", name=op.f("uq_pairs_study_id_id")),
        sa.UniqueConstraint(
            "study_id", "video_a", "video_b", "kind", name=op.f("uq_pairs_study_id_video_a_video_b_kind")
        ),
    )
    op.create_table(
        "evaluators",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "origin IN ('human', 'automatic', 'simulated')", name=op.f("ck_evaluators_origin")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluators")),
        sa.UniqueConstraint("id", "origin", name=op.f("uq_evaluators_id_origin")),
        sa.UniqueConstraint("pseudonym", name=op.f("uq_evaluators_pseudonym")),
    )
    op.create_table(
        "enrolments",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("evaluator_id", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("quota", sa.Integer(), nullable=True),
        sa.Column("cohort", sa.Text(), nullable=False),
        sa.Column("exclusion_reason", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state <> 'excluded' OR exclusion_reason IS NOT NULL",
            name=op.f("ck_enrolments_exclusion_has_reason"),
        ),
        sa.CheckConstraint(
            "state IN ('active', 'finished', 'revoked', 'excluded')", name=op.f("ck_enrolments_state")
        ),
        sa.CheckConstraint("quota IS NULL OR quota > 0", name=op.f("ck_enrolments_quota_positive")),
        sa.ForeignKeyConstraint(
            ["evaluator_id"], ["evaluators.id"], name=op.f("fk_enrolments_evaluator_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_enrolments_study_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("study_id", "evaluator_id", name=op.f("pk_enrolments")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_enrolments_token_hash")),
    )


def _votes() -> None:
    """Make the tables of tasks and votes collected here."""
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=26), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("evaluator_id", sa.Integer(), nullable=False),
        sa.Column("repeat_no", sa.Integer(), nullable=False),
        sa.Column("seq_no", sa.Integer(), nullable=False),
        sa.Column("a_on_left", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("nonce_left", sa.String(length=26), nullable=False),
        sa.Column("nonce_right", sa.String(length=26), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('leased', 'served', 'voted', 'expired', 'skipped')", name=op.f("ck_assignments_state")
        ),
        sa.CheckConstraint("nonce_left <> nonce_right", name=op.f("ck_assignments_two_nonces")),
        sa.ForeignKeyConstraint(
            ["study_id", "evaluator_id"],
            ["enrolments.study_id", "enrolments.evaluator_id"],
            name=op.f("fk_assignments_study_id_evaluator_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["study_id", "pair_id"],
            ["pairs.study_id", "pairs.id"],
            name=op.f("fk_assignments_study_id_pair_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint(
            "id", "evaluator_id", "a_on_left", name=op.f("uq_assignments_id_evaluator_id_a_on_left")
        ),
        sa.UniqueConstraint("nonce_left", name=op.f("uq_assignments_nonce_left")),
        sa.UniqueConstraint("nonce_right", name=op.f("uq_assignments_nonce_right")),
        sa.UniqueConstraint(
            "pair_id", "evaluator_id", "repeat_no", name=op.f("uq_assignments_pair_id_evaluator_id_repeat_no")
        ),
        sa.UniqueConstraint(
            "study_id", "evaluator_id", "seq_no", name=op.f("uq_assignments_study_id_evaluator_id_seq_no")
        ),
        sa.UniqueConstraint("token", name=op.f("uq_assignments_token")),
    )
    op.create_index("ix_assignments_lease", "assignments", ["study_id", "state", "lease_until"], unique=False)
    op.create_index(
        "uq_assignments_one_open",
        "assignments",
        ["study_id", "evaluator_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('leased', 'served')"),
        postgresql_where=sa.text("state IN ('leased', 'served')"),
    )
    op.create_table(
        "votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("evaluator_id", sa.Integer(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("criterion", sa.Text(), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("raw_choice", sa.Text(), nullable=False),
        sa.Column("a_on_left", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("client_token", sa.Text(), nullable=False),
        sa.Column("rt_ms", sa.Integer(), nullable=False),
        sa.Column("watched_left_ms", sa.Integer(), nullable=False),
        sa.Column("watched_right_ms", sa.Integer(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(raw_choice = 'same' AND outcome = 0)"
            " OR (raw_choice = 'left' AND a_on_left AND outcome = 1)"
            " OR (raw_choice = 'left' AND NOT a_on_left AND outcome = -1)"
            " OR (raw_choice = 'right' AND a_on_left AND outcome = -1)"
            " OR (raw_choice = 'right' AND NOT a_on_left AND outcome = 1)",
            name=op.f("ck_votes_outcome_follows_choice"),
        ),
        sa.CheckConstraint("rev >= 0", name=op.f("ck_votes_rev_not_negative")),
        sa.CheckConstraint(
            "rt_ms >= 0 AND watched_left_ms >= 0 AND watched_right_ms >= 0",
            name=op.f("ck_votes_times_not_negative"),
        ),
        sa.ForeignKeyConstraint(
            ["assignment_id", "evaluator_id", "a_on_left"],
            ["assignments.id", "assignments.evaluator_id", "assignments.a_on_left"],
            name=op.f("fk_votes_assignment_id_evaluator_id_a_on_left"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["evaluator_id", "origin"],
            ["evaluators.id", "evaluators.origin"],
            name=op.f("fk_votes_evaluator_id_origin"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_votes")),
        sa.UniqueConstraint(
            "assignment_id", "criterion", "rev", name=op.f("uq_votes_assignment_id_criterion_rev")
        ),
        sa.UniqueConstraint("client_token", name=op.f("uq_votes_client_token")),
    )


def _imports() -> None:
    """Make the tables of votes and counts collected elsewhere."""
    op.create_table(
        "imports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('counts', 'votes', 'genai-bench')", name=op.f("ck_imports_kind")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_imports_study_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
        sa.UniqueConstraint("id", "study_id", name=op.f("uq_imports_id_study_id")),
        sa.UniqueConstraint("study_id", "kind", "sha256", name=op.f("uq_imports_study_id_kind_sha256")),
    )
    op.create_table(
        "vote_counts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("import_id", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("competitor_id", sa.Integer(), nullable=False),
        sa.Column("criterion", sa.Text(), nullable=False),
        sa.Column("good", sa.Integer(), nullable=False),
        sa.Column("same", sa.Integer(), nullable=False),
        sa.Column("bad", sa.Integer(), nullable=False),
        sa.Column("published_ratio", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "origin IN ('human', 'automatic', 'simulated')", name=op.f("ck_vote_counts_origin")
        ),
        sa.CheckConstraint("candidate_id <> competitor_id", name=op.f("ck_vote_counts_two_systems")),
        sa.CheckConstraint(
            "good >= 0 AND same >= 0 AND bad >= 0", name=op.f("ck_vote_counts_counts_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["systems.id"], name=op.f("fk_vote_counts_candidate_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["competitor_id"], ["systems.id"], name=op.f("fk_vote_counts_competitor_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["import_id", "study_id"],
            ["imports.id", "imports.study_id"],
            name=op.f("fk_vote_counts_import_id_study_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vote_counts")),
        sa.UniqueConstraint("import_id", "line", name=op.f("uq_vote_counts_import_id_line")),
        sa.UniqueConstraint(
            "study_id",
            "candidate_id",
            "competitor_id",
            "criterion",
            name=op.f("uq_vote_counts_study_id_candidate_id_competitor_id_criterion"),
        ),
    )
    op.create_table(
        "imported_votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("import_id", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("evaluator", sa.Text(), nullable=True),
        sa.Column("prompt_id", sa.Integer(), nullable=True),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("competitor_id", sa.Integer(), nullable=False),
        sa.Column("criterion", sa.Text(), nullable=False),
        sa.Column("raw_label", sa.Text(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "origin IN ('human', 'automatic', 'simulated')", name=op.f("ck_imported_votes_origin")
        ),
        sa.CheckConstraint("candidate_id <> competitor_id", name=op.f("ck_imported_votes_two_systems")),
        sa.CheckConstraint("outcome IN (-1, 0, 1)", name=op.f("ck_imported_votes_outcome")),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["systems.id"], name=op.f("fk_imported_votes_candidate_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["competitor_id"],
            ["systems.id"],
            name=op.f("fk_imported_votes_competitor_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["import_id", "study_id"],
            ["imports.id", "imports.study_id"],
            name=op.f("fk_imported_votes_import_id_study_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_imported_votes_prompt_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_votes")),
        sa.UniqueConstraint("import_id", "line", name=op.f("uq_imported_votes_import_id_line")),
    )
    op.create_index("ix_imported_votes_study_id", "imported_votes", ["study_id"], unique=False)


def _records() -> None:
    """Make the tables of remarks and the log of changes."""
    op.create_table(
        "flags",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("subject_kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_flags_reason_given")),
        sa.CheckConstraint(
            "subject_kind IN ('evaluator', 'vote', 'pair', 'imported_vote')",
            name=op.f("ck_flags_subject_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_flags_study_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flags")),
    )
    op.create_index("ix_flags_subject", "flags", ["study_id", "subject_kind", "subject_id"], unique=False)
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_log_hash")),
        sa.UniqueConstraint("prev_hash", name=op.f("uq_audit_log_prev_hash")),
    )


TABLES = (
    "systems",
    "prompts",
    "runs",
    "media",
    "videos",
    "scores",
    "studies",
    "study_systems",
    "study_prompts",
    "presentations",
    "pairs",
    "evaluators",
    "enrolments",
    "assignments",
    "votes",
    "imports",
    "vote_counts",
    "imported_votes",
    "flags",
    "audit_log",
)
VOTE_TABLES = ("votes", "imported_votes", "vote_counts", "imports")
FROZEN_COLUMNS = {
    "assignments": (
        "id token study_id pair_id evaluator_id repeat_no seq_no a_on_left nonce_left nonce_right created_at"
    ),
    "pairs": "id study_id prompt_id video_a system_a video_b system_b kind expected",
    "evaluators": "id origin",
    "media": "sha256",
}
FORWARD = (
    "NOT (OLD.state = NEW.state OR (OLD.state = 'draft' AND NEW.state IN ('open', 'closed'))"
    " OR (OLD.state = 'open' AND NEW.state IN ('paused', 'closed'))"
    " OR (OLD.state = 'paused' AND NEW.state IN ('open', 'closed')))"
)


def _refuse(name: str, event: str, table: str, message: str, when: str | None = None) -> None:
    """Make a trigger that refuses an event on a table, in words."""
    condition = f"WHEN ({when})" if when else ""
    if op.get_context().dialect.name == "postgresql":
        call = f"EXECUTE FUNCTION refuse_change('{message}')"
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {condition} {call}")
    else:
        body = f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} {condition} {body}")


def _triggers() -> None:
    """Make the triggers: append-only votes and log, unchangeable sides, protocols and pairs."""
    postgresql = op.get_context().dialect.name == "postgresql"
    if postgresql:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = '23000'; END $$"
        )
        op.execute("ALTER TABLE media ALTER COLUMN data SET STORAGE EXTERNAL")
    for table in (*VOTE_TABLES, "audit_log"):
        message = f"{table} is append-only"
        _refuse(f"tr_{table}_no_update", "UPDATE", table, message)
        _refuse(f"tr_{table}_no_delete", "DELETE", table, message)
        if postgresql:
            op.execute(
                f"CREATE TRIGGER tr_{table}_no_truncate BEFORE TRUNCATE ON {table}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('{message}')"
            )
    for table, columns in FROZEN_COLUMNS.items():
        listed = ", ".join(columns.split())
        _refuse(f"tr_{table}_frozen", f"UPDATE OF {listed}", table, f"what {table} say cannot change")
    _refuse(
        "tr_studies_protocol",
        "UPDATE OF slug, kind, protocol, protocol_sha256, seed",
        "studies",
        "the protocol cannot change once a study is opened",
        "OLD.state <> 'draft'",
    )
    _refuse("tr_studies_state", "UPDATE OF state", "studies", "a study only moves forward", FORWARD)


def upgrade() -> None:
    """Make every table, index and trigger."""
    _catalogue()
    _studies()
    _votes()
    _imports()
    _records()
    _triggers()


def downgrade() -> None:
    """Drop everything; triggers go with their tables."""
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")
