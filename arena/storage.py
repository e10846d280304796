"""Bytes outside the database: in a folder, or at any URL that fsspec knows, under the name of their sha256."""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from arena.errors import MediaError


def write(base: str, sha256: str, data: bytes) -> str:
    """Write bytes below a folder or URL, whole or not at all, and return the URL they are at."""
    name = f"{sha256[:2]}/{sha256}"
    folder = _local(base)
    if folder is None:
        url = f"{base.rstrip('/')}/{name}"
        files, path = _remote(url)
        try:
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.pipe_file(path, data)
        except failures() as error:
            raise MediaError(f"cannot write {url}: {error}") from error
        return url
    target = folder.absolute() / name
    partial = target.with_name(f".{sha256}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise MediaError(f"cannot write {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target.as_uri()


def read(url: str, start: int, stop: int) -> bytes:
    """Return bytes ``start`` to ``stop`` (not included) of what `write` wrote."""
    path = _local(url)
    try:
        if path is None:
            files, name = _remote(url)
            return bytes(files.cat_file(name, start=start, end=stop))
        with path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)
    except failures() as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot read {url}: {reason}") from error


def failures() -> tuple[type[BaseException], ...]:
    """Return what the loaded file systems raise; those of the network are not all an ``OSError``."""
    loaded = [
        getattr(sys.modules[module], name)
        for module, name in (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
        if module in sys.modules
    ]
    return (OSError, *loaded)


def _local(base: str) -> Path | None:
    """Return the path of a folder or file URL, None for another URL."""
    if "://" not in base:
        return Path(base)
    parts = urlsplit(base)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _remote(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MediaError(
            f"{url}: this kind of address needs another package: pip install 'magicvideo[s3]'"
        ) from error
    except ValueError as error:
        raise MediaError(f"{url}: no such kind of address ({error})") from error
