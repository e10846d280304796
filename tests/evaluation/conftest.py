from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from arena.database import Database, open_database


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'test.db'}", create=True)
    yield opened
    opened.close()
