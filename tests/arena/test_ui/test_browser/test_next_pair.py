"""How long a click takes to bring the next pair to somebody who watches both videos to the end.

The figures are logged: ``--log-cli-level=INFO`` shows them. They are the machine's, so no test depends on them.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from arena import catalogue, media
from arena.database import open_database
from arena.models import Presentation, Vote
from arena.protocol import Protocol
from arena.studies import create_study, enrol

pytestmark = pytest.mark.browser

CLICKS = 100
logger = logging.getLogger(__name__)
CLICK_THROUGH = """async (clicks) => {
  const root = [...document.querySelectorAll('*')]
    .map((each) => (each.shadowRoot ?? each).querySelector('.arena')).find(Boolean);
  const find = (selector) => root.querySelector(selector);
  const until = (holds) => new Promise((resolve) => {
    const look = () => {
      if (!holds()) return;
      watcher.disconnect();
      resolve(performance.now());
    };
    const watcher = new MutationObserver(look);
    watcher.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    look();
  });
  const shown = [], playable = [];
  for (let click = 0; click < clicks; click += 1) {
    await until(() => !find('[data-choice=same]').disabled);
    const before = find('.prompt').textContent;
    const began = performance.now();
    find('[data-choice=same]').click();
    shown.push(await until(() => find('.prompt').textContent !== before) - began);
    playable.push(await until(() => find('.stage').classList.contains('ready')) - began);
  }
  return [shown, playable];
}"""


class _Setting:
    """An open study of many prompts which share two clips."""

    def __init__(self, folder: Path, clips: list[Path]) -> None:
        self.database = open_database(str(folder / "study.db"), create=True)
        self.url = self.database.url
        with self.database.session() as session:
            plan = Protocol(candidate="ours", competitors=("rival",))
            shown = {}
            for system, clip in zip(("ours", "rival"), clips, strict=True):
                look = media.Look(width=64, height=64)
                sha256 = media.store(session, media.canonical(clip.read_bytes(), look))
                owner = catalogue.ensure_system(session, system)
                for number in range(CLICKS + 1):
                    prompt = catalogue.ensure_prompt(session, f"a prompt of ordinary length, number {number}")
                    shown[catalogue.add_video(session, owner, prompt, clip).id] = sha256
            study = create_study(session, "study", plan)
            session.add_all(
                Presentation(study_id=study.id, video_id=video_id, media_sha256=sha256, changes={})
                for video_id, sha256 in shown.items()
            )
            study.state = "open"

    def invite(self) -> str:
        with self.database.session() as session:
            return enrol(session, "study").token


@pytest.fixture
def setting(tmp_path: Path, clips) -> Iterator[_Setting]:
    made = _Setting(tmp_path, [paths[0] for paths in clips.values()])
    yield made
    made.database.close()


def test_a_hundred_clicks_bring_a_hundred_pairs(page, visitor, watch, setting) -> None:
    visitor.join()
    visitor.wait_until_open()
    for what, times in zip(
        ("next pair shown", "both videos playable"), page.evaluate(CLICK_THROUGH, CLICKS), strict=True
    ):
        p50, p95 = np.percentile(times, [50, 95])
        logger.info("%d clicks: %s after %.0f ms (p50), %.0f ms (p95)", CLICKS, what, p50, p95)
    visitor.wait_until_stored()
    with setting.database.reading() as session:
        assert session.scalar(sa.select(sa.func.count(Vote.id))) == CLICKS
    assert watch.complaints == []
