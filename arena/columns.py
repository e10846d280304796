"""Values that columns hold: moments in UTC and opaque identifiers."""

import base64
import hashlib
import secrets
from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, TypeDecorator


def new_token() -> str:
    """Draw an opaque 128-bit identifier: 26 characters of lower-case base32."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


def token_hash(token: str) -> str:
    """Return what is stored of an evaluator's token: its sha256."""
    return hashlib.sha256(token.encode("utf-8")).hexdigest()


def now_utc() -> datetime:
    """Return the present moment with its time zone, which is always UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC on every engine; SQLite, which keeps no time zones, stores the bare UTC time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, received {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
