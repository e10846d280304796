"""What one arena process serves: its database, its study, and who may come in."""

import hmac
from dataclasses import dataclass, field
from typing import Literal

from arena.database import Database

VOTER_COOKIE = "arena_voter"
ORGANISER_COOKIE = "arena_organiser"

Registration = Literal["open", "code", "invited"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process's settings, shared by its routes and its pages.

    Args:
        database: where studies, clips and votes are kept.
        study: slug of the study which people join by themselves and whose results come first.
        organiser_token: secret which opens the results page.
        registration: ``open`` (anybody who reaches the page), ``code`` (whoever knows ``join_code``)
            or ``invited`` (personal links only).
        join_code: the code, when ``registration`` is ``code``.
        public_url: scheme and host under which people reach the page, without a final slash.
    """

    database: Database
    study: str
    organiser_token: str = field(repr=False)
    registration: Registration = "invited"
    join_code: str = field(default="", repr=False)
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

    def is_organiser(self, token: str | None) -> bool:
        """Compare a token with the organiser's in constant time."""
        return hmac.compare_digest((token or "").encode(), self.organiser_token.encode())

    def may_register(self, code: str) -> bool:
        """Say whether somebody who gives this code may join without an invitation."""
        if self.registration == "open":
            return True
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
