"""What a report is about: databases, and the run folders that filled them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena.database import resolve_url
from evaluation.ablation.outputs import RESULT as ABLATION
from evaluation.bench.manifest import FILE as MANIFEST
from evaluation.errors import EvaluationError

DATABASE = "magicvideo.db"


@dataclass(frozen=True)
class Source:
    """A database and the folders of the runs in it.

    Attributes:
        name: what to call it where several are reported.
        url: of the database.
        folders: of runs and ablations.
    """

    name: str
    url: str
    folders: tuple[Path, ...] = ()


def find_sources(places: Sequence[str], db: str | None) -> list[Source]:
    """Tell run folders, database files and database URLs apart; places of one database become one source.

    Args:
        places: none of them means the database ``db`` alone.
        db: the database of folders that hold none of their own.

    Raises:
        EvaluationError: a place is nothing of that kind.
        arena.errors.DatabaseError: ``db`` is no database URL.
    """
    if not places:
        return [Source("", resolve_url(db))]
    found: dict[str, Source] = {}
    for place in places:
        source = _source(place, db)
        known = found.get(source.url)
        folders = (*known.folders, *source.folders) if known else source.folders
        found[source.url] = Source(known.name if known else source.name, source.url, folders)
    return list(found.values())


def _source(place: str, db: str | None) -> Source:
    path = Path(place)
    if path.is_dir():
        if not any((path / name).exists() for name in (DATABASE, MANIFEST, ABLATION)):
            raise EvaluationError(
                f"{path} is no folder of a bench or an ablation: it holds neither {DATABASE} nor {MANIFEST}"
            )
        if not (path / DATABASE).exists() and db is None:
            raise EvaluationError(f"{path} holds no {DATABASE}; name the database of that run with --db")
        url = f"sqlite:///{path / DATABASE}" if (path / DATABASE).exists() else resolve_url(db)
        return Source(path.resolve().name, url, (path,))
    if path.is_file():
        return Source(path.stem, f"sqlite:///{path}")
    if "://" in place:
        return Source(place.rpartition("/")[2] or place, resolve_url(place))
    raise EvaluationError(
        f"there is no {place}; name the folder of a bench or an ablation, a database file, or a database URL"
    )
