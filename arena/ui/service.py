"""What one arena process serves: its database, its study, and who may come in."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from arena.database import Database
from arena.errors import StudyError
from arena.studies import list_studies

VOTER_COOKIE = "arena_voter"
ORGANISER_COOKIE = "arena_organiser"

Registration = Literal["open", "code", "invited"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process's settings, shared by its routes and its pages.

    Args:
        database: where studies, clips and votes are kept.
        study: slug of the study which people join by themselves and which the organiser sees first; empty for
            whichever one is open.
        organiser_token: secret which opens the organiser's page.
        registration: ``open`` (anybody who reaches the page), ``code`` (whoever knows ``join_code``)
            or ``invited`` (personal links only).
        join_code: the code, when ``registration`` is ``code``.
        videos_root: folder below which the organiser may bring videos in; None for nowhere.
        public_url: scheme and host under which people reach the page, without a final slash.
    """

    database: Database
    study: str
    organiser_token: str = field(repr=False)
    registration: Registration = "invited"
    join_code: str = field(default="", repr=False)
    videos_root: Path | None = None
    public_url: str = "http://127.0.0.1:8501"

    def __post_init__(self) -> None:
        if len(self.organiser_token) < 16:
            raise ValueError("organiser_token must have at least 16 characters")
        if (self.registration == "code") != bool(self.join_code):
            raise ValueError("join_code and registration 'code' go together")

    @property
    def secure_cookies(self) -> bool:
        """Say whether cookies may travel over HTTPS only."""
        return self.public_url.startswith("https://")

    def study_to_join(self) -> str:
        """Return the slug of the study which people join by themselves.

        Raises:
            StudyError: None is named, and not exactly one is open.
        """
        if self.study:
            return self.study
        with self.database.reading() as session:
            found = [
                study.slug
                for study in list_studies(session)
                if (study.kind, study.state) == ("arena", "open")
            ]
        if len(found) != 1:
            raise StudyError(f"{len(found)} studies are open: name the one to join")
        return found[0]

    def is_organiser(self, token: str | None) -> bool:
        """Compare a token with the organiser's in constant time."""
        return hmac.compare_digest((token or "").encode(), self.organiser_token.encode())

    def may_register(self, code: str) -> bool:
        """Say whether somebody may join the served study who has no invitation and gives this code, or none.

        Where anybody may join, a code that is given is another study's or group's, and is held to that.
        """
        if self.registration == "open":
            return not code
        return self.registration == "code" and hmac.compare_digest(code.encode(), self.join_code.encode())


_installed: list[Service] = []


def install(service: Service) -> None:
    """Make this service the one that the Streamlit pages of this process show."""
    _installed[:] = [service]


def current() -> Service:
    """Return the installed service; RuntimeError when the pages are run without one."""
    if not _installed:
        raise RuntimeError("no arena service is installed: start the pages with 'magicvideo arena serve'")
    return _installed[0]
