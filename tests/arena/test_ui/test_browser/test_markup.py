"""Text that would be markup, in every field that somebody may fill, on every page: none of it is run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from arena import catalogue, media
from arena.database import open_database
from arena.models import Presentation
from arena.protocol import Protocol
from arena.studies import close_study, create_study, enrol

pytestmark = pytest.mark.browser

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "</title></style></textarea><script>alert(4)</script>",
    "<iframe srcdoc='<script>parent.alert(5)</script>'></iframe>",
    "<details open ontoggle=alert(6)>",
    '[press](javascript:alert(7)) ![x](x"onerror="alert(7))',
    "{{constructor.constructor('alert(8)')()}}${alert(8)}",
    "<a href=javascript:alert(9) autofocus onfocus=alert(9)>x</a>",
    "' onmouseover='alert(10)' autofocus onfocus='alert(10)",
    "<math><mtext><style><img src=x onerror=alert(11)></style></mtext></math>",
    "$\\href{javascript:alert(12)}{x}$ :material/alert: <video><source onerror=alert(12)>",
)
ALL = "\n".join(PAYLOADS)
SLUG = f"study {PAYLOADS[1]}"
CANDIDATE, COMPETITOR = PAYLOADS[0], PAYLOADS[2]
TELL_POLICY = "addEventListener('securitypolicyviolation', (event) => console.error(event.violatedDirective))"


class _Setting:
    """An open study in which every text is a payload."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.database = open_database(str(folder / "study.db"), create=True)
        self.url = self.database.url
        with self.database.session() as session:
            look = media.Look(width=64, height=64)
            shown = media.store(session, media.canonical(clip.read_bytes(), look))
            videos = []
            for system in (CANDIDATE, COMPETITOR):
                owner = catalogue.ensure_system(session, system)
                for text in PAYLOADS:
                    prompt = catalogue.ensure_prompt(session, text)
                    videos.append(catalogue.add_video(session, owner, prompt, clip))
            plan = Protocol(
                candidate=CANDIDATE,
                competitors=(COMPETITOR,),
                votes_per_pair=2,
                criteria=("overall", *PAYLOADS),
                question=ALL,
                instructions=ALL,
                consent=ALL,
                finish_code=PAYLOADS[3],
                return_url="https://panel.example/?cc={code}",
                comments=True,
                min_watch=0.0,
            )
            study = create_study(session, SLUG, plan)
            session.add_all(
                Presentation(study_id=study.id, video_id=video.id, media_sha256=shown, changes={})
                for video in videos
            )
            study.state = "open"
            session.flush()
            for payload in PAYLOADS[1:]:
                enrol(session, SLUG, pseudonym=payload, cohort=payload)

    def invite(self) -> str:
        with self.database.session() as session:
            return enrol(session, SLUG, pseudonym=PAYLOADS[0], cohort=PAYLOADS[0]).token


@pytest.fixture
def setting(tmp_path: Path, clips) -> Iterator[_Setting]:
    made = _Setting(tmp_path, next(iter(clips.values()))[0])
    yield made
    made.database.close()


def _vote_on_everything(page: Page, visitor) -> None:
    for number, _ in enumerate(PAYLOADS, 1):
        expect(page.locator(".count")).to_have_text(f"{number} of {len(PAYLOADS)}")
        visitor.wait_until_open()
        text = page.locator(".prompt").inner_text()
        assert text in PAYLOADS
        if page.locator(".details").is_hidden():
            page.keyboard.press("d")
        page.get_by_label("Comment").fill(text)
        page.get_by_role("button", name="About the same").click()


def test_threat_15_no_text_of_anybody_is_run_on_any_page(page, visitor, watch, address, setting) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.add_init_script(TELL_POLICY)
    page.goto(f"{address}/join/{setting.invite()}")
    page.get_by_role("button", name="I agree").click()
    expect(page.locator(".instructions")).to_contain_text(PAYLOADS[0])
    page.get_by_role("button", name="Start").click()
    _vote_on_everything(page, visitor)
    expect(page.locator(".finish-code")).to_have_text(PAYLOADS[3])
    visitor.become_organiser()
    page.goto(f"{address}/?view=results")
    expect(page.get_by_role("heading", name=SLUG)).to_be_visible()
    for tab, sign in (("Evaluators", PAYLOADS[4]), ("Balance", PAYLOADS[5]), ("Protocol", "instructions")):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator("[role=tabpanel]:visible")).to_contain_text(sign)
    close_study(setting.database, SLUG)
    page.goto(f"{address}/?view=results")
    expect(page.locator(".mv-comparisons")).to_contain_text(CANDIDATE)
    visitor.wait_until_drawn()
    page.get_by_label("Study").click()
    page.get_by_text("Set up a new study").click()
    expect(page.get_by_text(COMPETITOR).first).to_be_visible()
    page.goto(f"{address}/join/{PAYLOADS[1].replace('/', '')}")
    page.goto(f"{address}/?view={PAYLOADS[1]}")
    expect(page.get_by_text("This study is closed").first).to_be_visible()
    assert dialogs == []
    assert [said for said in watch.complaints if "403" not in said] == []
