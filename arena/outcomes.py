"""What became of every video that was asked for: a refusal or a failure is a row, never a gap."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from arena.constraints import one_of, row
from arena.models import Base, Prompt, System, Video


class Outcome(Base):
    """What became of the newest attempt of a system to make a video of a prompt with a seed.

    Attributes:
        outcome: ``made``; ``refused`` by moderation; ``missing`` among imported videos; ``failed``.
        reason: Why there is no video.
        video: What was made; its measured size, rate and length are there.
        config_digest: Of the system's config.
        model: Id and version of what made it, empty if the system's name says it.
        seed_used: Whether the seed decided the video; False where the system takes none.
        requested: Those of ``width``, ``height``, ``fps`` and ``frames`` that were asked for.
        seconds: From the last attempt's start to the finished video.
        attempts: Tries, the last one included.
        cost: In ``currency``, such as ``USD`` or ``credits``; None if unknown.
        remote_id: What the provider calls the job.
        device: Where it was made.
    """

    __tablename__ = "outcomes"
    __table_args__ = (
        CheckConstraint(one_of("outcome", "made", "refused", "missing", "failed"), "outcome"),
        CheckConstraint("(outcome = 'made') = (video_id IS NOT NULL)", "made_has_video"),
        CheckConstraint("(outcome = 'made') = (reason IS NULL)", "video_or_reason"),
        CheckConstraint("attempts >= 0", "attempts_not_negative"),
    )
    system_id: Mapped[int] = mapped_column(row("systems.id"), primary_key=True)
    prompt_id: Mapped[int] = mapped_column(row("prompts.id"), primary_key=True, index=True)
    seed: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    outcome: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    video_id: Mapped[int | None] = mapped_column(row("videos.id"), index=True)
    config_digest: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    seed_used: Mapped[bool]
    requested: Mapped[dict[str, Any]]
    seconds: Mapped[float | None]
    attempts: Mapped[int]
    cost: Mapped[float | None]
    currency: Mapped[str] = mapped_column(Text)
    remote_id: Mapped[str] = mapped_column(Text)
    device: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    system: Mapped[System] = relationship(lazy="joined")
    prompt: Mapped[Prompt] = relationship(lazy="joined")
    video: Mapped[Video | None] = relationship()
