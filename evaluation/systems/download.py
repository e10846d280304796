"""Fetch a video by HTTP, within limits of size and time."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from evaluation.engine.scratch import scratch_file
from evaluation.errors import EvaluationError
from evaluation.systems.base import TransientError

CHUNK = 1 << 16
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


class DownloadLimits(BaseModel):
    """What a download may ask for.

    Attributes:
        bytes: largest file.
        seconds: longest time.
        hosts: allowed hosts; any if empty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: Annotated[int, Field(gt=0)] = 512 * 2**20
    seconds: Annotated[float, Field(gt=0)] = 300
    hosts: tuple[str, ...] = ()


def check_address(url: str, hosts: tuple[str, ...] = ()) -> None:
    """Refuse anything but http(s), and hosts that are not allowed.

    Raises:
        EvaluationError: the address is refused.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationError(f"{url!r} is no http or https address")
    if hosts and parts.hostname not in hosts:
        raise EvaluationError(f"{url}: the host is not among the allowed ones ({', '.join(hosts)})")


def download(url: str, limits: DownloadLimits) -> Path:
    """Return a temporary mp4 file with the content of ``url``.

    Raises:
        TransientError: the server cannot serve it now.
        EvaluationError: the address is refused, or the answer is larger or slower than allowed.
    """
    check_address(url, limits.hosts)
    deadline = time.monotonic() + limits.seconds
    path = scratch_file()
    try:
        with path.open("wb") as file:
            _fetch(url, limits, deadline, file.write)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, urllib.error.HTTPError):
            kind = TransientError if error.code in RETRY_STATUS else EvaluationError
            raise kind(f"{url}: the server answered {error.code}") from error
        if isinstance(error, OSError | urllib.error.URLError):
            raise TransientError(f"{url}: {getattr(error, 'reason', error)}") from error
        raise
    return path


def _fetch(url: str, limits: DownloadLimits, deadline: float, write: Callable[[bytes], Any]) -> None:
    size = 0
    with urllib.request.urlopen(url, timeout=min(30.0, limits.seconds)) as answer:
        stated = int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            if max(size, stated) > limits.bytes:
                raise EvaluationError(f"{url}: larger than the {limits.bytes} bytes allowed")
            if time.monotonic() > deadline:
                raise EvaluationError(f"{url}: not finished within {limits.seconds:g} s")
            write(chunk)
    if stated and size != stated:
        raise TransientError(f"{url}: broke off after {size} of {stated} bytes")
