"""Every table of a MagicVideo database, as typed SQLAlchemy models.

Tables and triggers (votes are append-only, an opened protocol cannot change) come from ``alembic/versions``
alone. Verdicts are relative to a pair's first video, the candidate's: +1 good, 0 same, -1 bad.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from arena.columns import UtcDateTime
from arena.constraints import exactly_one, one_of, row, rows

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
OPEN_STATES = ("leased", "served")
IMPORT_KINDS = ("counts", "votes", "genai-bench", "battles", "comparisons", "ratings")
FLAGGED = ("evaluator", "vote", "pair", "imported_vote")


class Base(DeclarativeBase):
    """Common base: named constraints, UTC moments, JSON documents."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as declared)
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        float: Double,
        bytes: LargeBinary,
    }


class System(Base):
    """A text-to-video system, or one arm of it."""

    __tablename__ = "systems"
    __table_args__ = (UniqueConstraint("name", "version"), CheckConstraint("name <> ''", "name_given"))
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text, default="")
    config_digest: Mapped[str | None] = mapped_column(Text)


class Prompt(Base):
    """A text which systems turn into videos."""

    __tablename__ = "prompts"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    text_sha256: Mapped[str] = mapped_column(String(64), unique=True)


class Run(Base):
    """One generation run of a system: what it takes to make its videos again."""

    __tablename__ = "runs"
    __table_args__ = (CheckConstraint(one_of("state", "running", "finished", "failed"), "state"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    system_id: Mapped[int] = mapped_column(row("systems.id"), index=True)
    config_digest: Mapped[str] = mapped_column(Text)
    config: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    git_commit: Mapped[str | None] = mapped_column(Text)
    git_dirty: Mapped[bool | None]
    packages: Mapped[dict[str, Any]]
    device: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Media(Base):
    """Bytes named by their sha256: held here, or at a URL, never both."""

    __tablename__ = "media"
    __table_args__ = (
        CheckConstraint(exactly_one("data", "url"), "data_or_url"),
        CheckConstraint("byte_size > 0", "byte_size_positive"),
        CheckConstraint("length(sha256) = 64", "sha256_length"),
    )
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    byte_size: Mapped[int] = mapped_column(BigInteger)
    mime: Mapped[str] = mapped_column(Text)
    data: Mapped[bytes | None] = mapped_column(deferred=True)
    url: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]


class Video(Base):
    """What a system made of a prompt, with its measured geometry."""

    __tablename__ = "videos"
    __table_args__ = (
        UniqueConstraint("system_id", "prompt_id", "seed", "variant"),
        UniqueConstraint("id", "system_id", "prompt_id"),
        CheckConstraint("width > 0 AND height > 0 AND frames > 0", "geometry_positive"),
        CheckConstraint("fps_num > 0 AND fps_den > 0 AND duration_ms >= 0", "timing_positive"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    system_id: Mapped[int] = mapped_column(row("systems.id"))
    prompt_id: Mapped[int] = mapped_column(row("prompts.id"), index=True)
    run_id: Mapped[int | None] = mapped_column(row("runs.id"), index=True)
    seed: Mapped[int] = mapped_column(BigInteger)
    variant: Mapped[str] = mapped_column(Text)
    media_sha256: Mapped[str] = mapped_column(row("media.sha256"), index=True)
    width: Mapped[int]
    height: Mapped[int]
    fps_num: Mapped[int]
    fps_den: Mapped[int]
    frames: Mapped[int]
    duration_ms: Mapped[int]
    created_at: Mapped[datetime]
    system: Mapped[System] = relationship(lazy="joined")
    prompt: Mapped[Prompt] = relationship(lazy="joined")


class Score(Base):
    """A metric's value on one video, run or system; absent values say why."""

    __tablename__ = "scores"
    __table_args__ = (
        CheckConstraint(exactly_one("video_id", "run_id", "system_id"), "one_subject"),
        CheckConstraint("(value IS NULL) = (reason IS NOT NULL)", "value_or_reason"),
        UniqueConstraint("video_id", "metric", "signature"),
        UniqueConstraint("run_id", "metric", "signature"),
        UniqueConstraint("system_id", "metric", "signature"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    video_id: Mapped[int | None] = mapped_column(row("videos.id"))
    run_id: Mapped[int | None] = mapped_column(row("runs.id"))
    system_id: Mapped[int | None] = mapped_column(row("systems.id"))
    metric: Mapped[str] = mapped_column(Text)
    signature: Mapped[str] = mapped_column(Text)
    value: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]


class Study(Base):
    """A preference study: collected here (``arena``) or brought in from a table (``imported``)."""

    __tablename__ = "studies"
    __table_args__ = (
        CheckConstraint(one_of("kind", "arena", "imported"), "kind"),
        CheckConstraint(one_of("state", "draft", "open", "paused", "closed"), "state"),
        CheckConstraint("slug <> ''", "slug_given"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    protocol: Mapped[dict[str, Any]]
    protocol_sha256: Mapped[str] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class StudySystem(Base):
    """A system's part in a study; at most one candidate. Nobody is asked about a stopped competitor any more."""

    __tablename__ = "study_systems"
    __table_args__ = (
        CheckConstraint(one_of("role", "candidate", "competitor"), "role"),
        Index(
            "uq_study_systems_candidate",
            "study_id",
            unique=True,
            sqlite_where=text("role = 'candidate'"),
            postgresql_where=text("role = 'candidate'"),
        ),
    )
    study_id: Mapped[int] = mapped_column(row("studies.id"), primary_key=True)
    system_id: Mapped[int] = mapped_column(row("systems.id"), primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    stopped_at: Mapped[datetime | None]


class StudyPrompt(Base):
    """A prompt's part in a study."""

    __tablename__ = "study_prompts"
    __table_args__ = (CheckConstraint(one_of("split", "main", "training", "gold"), "split"),)
    study_id: Mapped[int] = mapped_column(row("studies.id"), primary_key=True)
    prompt_id: Mapped[int] = mapped_column(row("prompts.id"), primary_key=True)
    split: Mapped[str] = mapped_column(Text)


class Presentation(Base):
    """The blinded copy of a video which a study shows, and what was changed to make it."""

    __tablename__ = "presentations"
    study_id: Mapped[int] = mapped_column(row("studies.id"), primary_key=True)
    video_id: Mapped[int] = mapped_column(row("videos.id"), primary_key=True)
    media_sha256: Mapped[str] = mapped_column(row("media.sha256"))
    changes: Mapped[dict[str, Any]]


class DegradedCopy(Base):
    """A visibly worse copy of a video, set against the video itself to see whether evaluators look."""

    __tablename__ = "degraded_copies"
    study_id: Mapped[int] = mapped_column(primary_key=True)
    video_id: Mapped[int] = mapped_column(primary_key=True)
    media_sha256: Mapped[str] = mapped_column(row("media.sha256"))
    changes: Mapped[dict[str, Any]]
    __table_args__ = (rows("presentations", "study_id=study_id", "video_id=video_id"),)


class Pair(Base):
    """Two videos to compare; the composite keys prove one prompt and the stated systems.

    Training and gold pairs have a known answer; where both videos are one, the second is its degraded copy.
    """

    __tablename__ = "pairs"
    __table_args__ = (
        rows("videos", "video_a=id", "system_a=system_id", "prompt_id=prompt_id"),
        rows("videos", "video_b=id", "system_b=system_id", "prompt_id=prompt_id"),
        rows("study_systems", "study_id=study_id", "system_a=system_id"),
        rows("study_systems", "study_id=study_id", "system_b=system_id"),
        rows("study_prompts", "study_id=study_id", "prompt_id=prompt_id"),
        UniqueConstraint("study_id", "video_a", "video_b", "kind"),
        UniqueConstraint("study_id", "id"),
        CheckConstraint(one_of("kind", "main", "training", "gold"), "kind"),
        CheckConstraint("kind <> 'main' OR system_a <> system_b", "two_systems"),
        CheckConstraint("slots_left >= 0 AND slots_left <= target_votes", "slots"),
        CheckConstraint("(kind = 'main') = (expected IS NULL)", "check_has_answer"),
        CheckConstraint("expected IN (-1, 0, 1)", "expected"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(row("studies.id"))
    prompt_id: Mapped[int]
    video_a: Mapped[int]
    system_a: Mapped[int]
    video_b: Mapped[int]
    system_b: Mapped[int]
    kind: Mapped[str] = mapped_column(Text)
    expected: Mapped[int | None] = mapped_column(SmallInteger)
    target_votes: Mapped[int]
    slots_left: Mapped[int]


class Evaluator(Base):
    """A person who votes, known by a pseudonym only; simulated ones are marked for good."""

    __tablename__ = "evaluators"
    __table_args__ = (
        UniqueConstraint("id", "origin"),
        CheckConstraint(one_of("origin", "human", "automatic", "simulated"), "origin"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    pseudonym: Mapped[str] = mapped_column(Text, unique=True)
    origin: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class Enrolment(Base):
    """An evaluator's place in a study; the token itself is nowhere, only its sha256."""

    __tablename__ = "enrolments"
    __table_args__ = (
        CheckConstraint(one_of("state", "active", "finished", "revoked", "excluded"), "state"),
        CheckConstraint("state <> 'excluded' OR exclusion_reason IS NOT NULL", "exclusion_has_reason"),
        CheckConstraint("quota IS NULL OR quota > 0", "quota_positive"),
    )
    study_id: Mapped[int] = mapped_column(row("studies.id"), primary_key=True)
    evaluator_id: Mapped[int] = mapped_column(row("evaluators.id"), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(Text)
    quota: Mapped[int | None]
    cohort: Mapped[str] = mapped_column(Text, default="")
    exclusion_reason: Mapped[str | None] = mapped_column(Text)
    expires_at: Mapped[datetime | None]
    consented_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    study: Mapped[Study] = relationship(lazy="joined")
    evaluator: Mapped[Evaluator] = relationship(lazy="joined")


class RegistrationCode(Base):
    """A code by which so many people may let themselves into a study; the code itself is nowhere."""

    __tablename__ = "registration_codes"
    __table_args__ = (
        CheckConstraint("places_left >= 0 AND places_left <= places", "places"),
        CheckConstraint("quota IS NULL OR quota > 0", "quota_positive"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(row("studies.id"))
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    places: Mapped[int]
    places_left: Mapped[int]
    quota: Mapped[int | None]
    cohort: Mapped[str] = mapped_column(Text, default="")
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Assignment(Base):
    """One pair put before one evaluator, with the side of the candidate fixed for good."""

    __tablename__ = "assignments"
    __table_args__ = (
        rows("enrolments", "study_id=study_id", "evaluator_id=evaluator_id"),
        rows("pairs", "study_id=study_id", "pair_id=id"),
        UniqueConstraint("pair_id", "evaluator_id", "repeat_no"),
        UniqueConstraint("study_id", "evaluator_id", "seq_no"),
        UniqueConstraint("id", "evaluator_id", "a_on_left"),
        CheckConstraint(one_of("state", *OPEN_STATES, "voted", "expired", "skipped"), "state"),
        CheckConstraint("nonce_left <> nonce_right", "two_nonces"),
        Index(
            "uq_assignments_one_open",
            "study_id",
            "evaluator_id",
            unique=True,
            sqlite_where=text(one_of("state", *OPEN_STATES)),
            postgresql_where=text(one_of("state", *OPEN_STATES)),
        ),
        Index("ix_assignments_lease", "study_id", "state", "lease_until"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(26), unique=True)
    study_id: Mapped[int]
    pair_id: Mapped[int]
    evaluator_id: Mapped[int]
    repeat_no: Mapped[int]
    seq_no: Mapped[int]
    a_on_left: Mapped[bool]
    state: Mapped[str] = mapped_column(Text)
    lease_until: Mapped[datetime]
    nonce_left: Mapped[str] = mapped_column(String(26), unique=True)
    nonce_right: Mapped[str] = mapped_column(String(26), unique=True)
    created_at: Mapped[datetime]


class Vote(Base):
    """One click of one evaluator, never changed; a second thought is a new revision."""

    __tablename__ = "votes"
    __table_args__ = (
        rows("assignments", "assignment_id=id", "evaluator_id=evaluator_id", "a_on_left=a_on_left"),
        rows("evaluators", "evaluator_id=id", "origin=origin"),
        UniqueConstraint("assignment_id", "criterion", "rev"),
        CheckConstraint(
            "(raw_choice = 'same' AND outcome = 0)"
            " OR (raw_choice = 'left' AND a_on_left AND outcome = 1)"
            " OR (raw_choice = 'left' AND NOT a_on_left AND outcome = -1)"
            " OR (raw_choice = 'right' AND a_on_left AND outcome = -1)"
            " OR (raw_choice = 'right' AND NOT a_on_left AND outcome = 1)",
            "outcome_follows_choice",
        ),
        CheckConstraint(
            "rt_ms >= 0 AND watched_left_ms >= 0 AND watched_right_ms >= 0", "times_not_negative"
        ),
        CheckConstraint("rev >= 0", "rev_not_negative"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int]
    evaluator_id: Mapped[int]
    origin: Mapped[str] = mapped_column(Text)
    criterion: Mapped[str] = mapped_column(Text)
    rev: Mapped[int]
    raw_choice: Mapped[str] = mapped_column(Text)
    a_on_left: Mapped[bool]
    outcome: Mapped[int] = mapped_column(SmallInteger)
    client_token: Mapped[str] = mapped_column(Text, unique=True)
    rt_ms: Mapped[int]
    watched_left_ms: Mapped[int]
    watched_right_ms: Mapped[int]
    comment: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class Import(Base):
    """One file of votes or counts that was brought into a study, known by its sha256."""

    __tablename__ = "imports"
    __table_args__ = (
        UniqueConstraint("study_id", "kind", "sha256"),
        UniqueConstraint("id", "study_id"),
        CheckConstraint(one_of("kind", *IMPORT_KINDS), "kind"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(row("studies.id"))
    kind: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int]
    options: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class VoteCount(Base):
    """Good, same and bad of one row of a table that publishes nothing finer."""

    __tablename__ = "vote_counts"
    __table_args__ = (
        rows("imports", "import_id=id", "study_id=study_id"),
        UniqueConstraint("study_id", "candidate_id", "competitor_id", "criterion"),
        UniqueConstraint("import_id", "line"),
        CheckConstraint("good >= 0 AND same >= 0 AND bad >= 0", "counts_not_negative"),
        CheckConstraint("candidate_id <> competitor_id", "two_systems"),
        CheckConstraint(one_of("origin", "human", "automatic", "simulated"), "origin"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int]
    import_id: Mapped[int]
    line: Mapped[int]
    candidate_id: Mapped[int] = mapped_column(row("systems.id"))
    competitor_id: Mapped[int] = mapped_column(row("systems.id"))
    criterion: Mapped[str] = mapped_column(Text)
    good: Mapped[int]
    same: Mapped[int]
    bad: Mapped[int]
    published_ratio: Mapped[str | None] = mapped_column(Text)
    origin: Mapped[str] = mapped_column(Text)


class ImportedVote(Base):
    """One vote collected elsewhere: no assignment stands behind it, only a line of a file."""

    __tablename__ = "imported_votes"
    __table_args__ = (
        rows("imports", "import_id=id", "study_id=study_id"),
        UniqueConstraint("import_id", "line"),
        CheckConstraint("outcome IN (-1, 0, 1)", "outcome"),
        CheckConstraint("candidate_id <> competitor_id", "two_systems"),
        CheckConstraint(one_of("origin", "human", "automatic", "simulated"), "origin"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(index=True)
    import_id: Mapped[int]
    line: Mapped[int]
    evaluator: Mapped[str | None] = mapped_column(Text)
    prompt_id: Mapped[int | None] = mapped_column(row("prompts.id"))
    candidate_id: Mapped[int] = mapped_column(row("systems.id"))
    competitor_id: Mapped[int] = mapped_column(row("systems.id"))
    criterion: Mapped[str] = mapped_column(Text)
    raw_label: Mapped[str] = mapped_column(Text)
    outcome: Mapped[int] = mapped_column(SmallInteger)
    origin: Mapped[str] = mapped_column(Text)


class Flag(Base):
    """A reasoned remark on an evaluator, vote or pair; exclusions are rows, never deletions."""

    __tablename__ = "flags"
    __table_args__ = (
        CheckConstraint(one_of("subject_kind", *FLAGGED), "subject_kind"),
        CheckConstraint("reason <> ''", "reason_given"),
        Index("ix_flags_subject", "study_id", "subject_kind", "subject_id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(row("studies.id"))
    subject_kind: Mapped[str] = mapped_column(Text)
    subject_id: Mapped[int]
    rule: Mapped[str] = mapped_column(Text)
    value: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class AuditEntry(Base):
    """A change worth proving later, chained by hash to the entry before it."""

    __tablename__ = "audit_log"
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    entity: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]]
    prev_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
