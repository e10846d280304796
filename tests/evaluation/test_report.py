import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from arena import catalogue, exchange, studies
from arena.database import Database
from arena.errors import ArenaError
from arena.protocol import Protocol
from evaluation.errors import EvaluationError
from evaluation.report.build import build_report
from evaluation.report.html import to_html
from evaluation.report.numbers import significant
from evaluation.runs import make_videos
from evaluation.systems.sprites_truth import SpritesTruth

TABLE_1 = (
    "candidate,competitor,good,same,bad,published_ratio\n"
    "MagicVideo-V2,MoonValley,4099,1242,759,2.67\n"
    "MagicVideo-V2,Pika 1.0,4263,927,1010,2.68\n"
    "MagicVideo-V2,Morph,4129,1230,741,2.72\n"
    "MagicVideo-V2,Gen-2,3448,1279,1373,1.78\n"
    "MagicVideo-V2,SVD-XT,3169,1591,1340,1.62\n"
)
RATIOS = (2.669165, 2.679401, 2.718924, 1.782428, 1.624019)
PROMPT = "a large red star spinning on a sunset background"
REFERENCES = {"src", "href", "xlink:href", "action", "poster", "srcset", "data"}


class Page(HTMLParser):
    """What a page loads, its text, and whether its tags close."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input", "use", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in REFERENCES]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in REFERENCES]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def import_table_1(database: Database, folder: Path) -> None:
    table = folder / "table1.csv"
    table.write_text(TABLE_1, "utf-8")
    with database.session() as session:
        exchange.import_counts(session, table, "table-1", stated_evaluators=61, stated_comparisons=500)


def make_study(database: Database, folder: Path, prompts: tuple[str, ...] = (PROMPT,)) -> None:
    systems = [
        SpritesTruth(size=32, num_frames=8, name="ours"),
        SpritesTruth(size=48, num_frames=8, name="theirs"),
    ]
    make_videos(database, systems, prompts, folder=folder / "videos", progress=False)
    with database.session() as session:
        studies.create_study(session, "stages", Protocol(candidate="ours", competitors=("theirs",)))
    studies.open_study(database, "stages")


def score(database: Database, values: dict[str, list[float | None]]) -> None:
    with database.session() as session:
        for system, scores in values.items():
            for video, value in zip(catalogue.find_videos(session, system=system), scores, strict=True):
                reason = "nothing moves" if value is None else None
                catalogue.add_score(
                    session, metric="clip", signature="clip|v:1", value=value, reason=reason, video=video
                )


def test_table_1_is_reported_with_its_ratios_and_its_surplus(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    report = json.loads(build_report(database).to_json())
    [study] = report["studies"]
    assert [row["ratio"] for row in study["comparisons"]] == pytest.approx(RATIOS, abs=1e-6)
    keys = {"good", "same", "bad", "n", "ratio", "se_log_ratio", "interval", "tie_share", "good_over_bad"}
    assert keys | {"candidate", "competitor", "net_preference"} <= study["comparisons"][0].keys()
    assert any("30,600" in sentence and "30,500" in sentence for sentence in study["warnings"])
    assert "preferred to all 5 competitors" in report["headline"]
    assert "1.62 [1.57, 1.68] against SVD-XT" in report["headline"]


def test_page_holds_the_table_the_bars_and_the_warnings(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    page = Page(to_html(build_report(database)))
    assert page.open == []
    assert page.tags.count("svg") == 1
    for expected in ("4,099", "1,242", "759", "2.67", "2.56 – 2.78", "67.2%", "30,600", "30,500"):
        assert expected in page.text
    assert "No votes yet" not in page.text


def test_page_needs_nothing_from_anywhere(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    make_study(database, tmp_path)
    score(database, {"ours": [31.0], "theirs": [30.0]})
    text = to_html(build_report(database))
    page = Page(text)
    assert page.loads
    assert all(
        value.startswith(("data:image/jpeg;base64,", "data:video/mp4;base64,", "#")) for value in page.loads
    )
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "://" not in text.replace("sqlite:///", "")


def test_study_without_votes_says_so_in_words(database: Database, tmp_path: Path) -> None:
    make_study(database, tmp_path)
    report = build_report(database, vote_command="make arena")
    assert report.headline == "No votes yet in study stages: vote with make arena."
    [study] = report.studies
    assert (study.votes, study.comparisons, study.unvoted) == (0, (), ("theirs",))
    page = Page(to_html(report))
    assert "svg" not in page.tags
    assert "Good" not in [word.strip() for word in page.words]


def test_example_frames_stand_beside_each_other(database: Database, tmp_path: Path) -> None:
    make_study(database, tmp_path)
    report = build_report(database)
    [example] = report.examples
    assert example.prompt == PROMPT
    assert [strip.system for strip in example.strips] == ["ours", "theirs"]
    assert example.strips[0].frames == (0, 2, 4, 5, 7)
    assert "48×48, 8 frames, 30 fps" in example.strips[1].geometry
    page = Page(to_html(report))
    assert page.tags.count("img") == 10
    assert any("keep this page from people who still vote" in remark for remark in report.remarks)
    assert not {"images", "clip"} & report.to_dict()["examples"][0]["strips"][0].keys()


def test_automatic_comparison_is_labelled_and_never_counts_as_votes(
    database: Database, tmp_path: Path
) -> None:
    prompts = tuple(PROMPT.replace("red", colour) for colour in ("red", "green", "blue", "white"))
    make_study(database, tmp_path, prompts)
    score(database, {"ours": [31.0, 32.0, 33.0, 34.0], "theirs": [30.0, 30.5, 32.5, None]})
    report = build_report(database)
    [item] = report.automatic
    assert (item.candidate, item.competitor) == ("ours", "theirs")
    assert (item.better, item.worse, item.n) == (3, 0, 3)
    assert report.studies[0].votes == 0
    text = Page(to_html(report)).text
    assert "automatic, no votes" in text
    assert "1 without" in text
    assert "nothing moves" in text


def test_prompts_and_names_are_escaped(database: Database, tmp_path: Path) -> None:
    table = tmp_path / "votes.csv"
    table.write_text(
        "candidate,competitor,good,same,bad\n<b>us</b>,</svg><script>x</script>,5,1,2\n<b>us</b>,a$b$_{c,1,2,3\n",
        "utf-8",
    )
    video = tmp_path / "a.mp4"
    with database.session() as session:
        exchange.import_counts(session, table, "<i>study</i>")
    make_videos(
        database, [SpritesTruth(size=32, num_frames=4)], [PROMPT], folder=tmp_path / "v", progress=False
    )
    video = next((tmp_path / "v").rglob("*.mp4"))
    with database.session() as session:
        system = catalogue.ensure_system(session, "<u>other</u>")
        prompt = catalogue.ensure_prompt(session, "<img src=http://example.org/x onerror=alert(1)>")
        catalogue.add_video(session, system, prompt, video)
    page = Page(to_html(build_report(database)))
    assert page.open == []
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert "<img src=http://example.org/x onerror=alert(1)>" in page.text
    assert all(value.startswith(("data:", "#")) for value in page.loads)


def test_empty_database_gives_one_clear_sentence(database: Database) -> None:
    report = build_report(database)
    assert report.headline.startswith("This database is empty")
    assert (report.studies, report.metrics, report.examples) == ((), (), ())
    assert "Preference" not in Page(to_html(report)).text.split()


def test_unknown_study_is_refused_with_the_known_ones(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    with pytest.raises(ArenaError, match="table-1"):
        build_report(database, ["tabel-1"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.5, "0.500"), (1234.4, "1,234"), (-0.0123456, "−0.0123"), (100.4, "100")],
)
def test_numbers_keep_three_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def run(*arguments: str) -> Any:
    import typer

    from evaluation.cli.report import report

    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, arguments)


def test_command_writes_both_files_and_nothing_else(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    out = tmp_path / "new" / "folder"
    result = run("--db", database.url, "--out", str(out / "r.html"), "--json", str(out / "r.json"))
    assert result.exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["r.html", "r.json"]
    assert "preferred to all 5 competitors" in result.stdout
    assert json.loads((out / "r.json").read_text("utf-8"))["format"] == 2


def test_place_that_cannot_be_written_is_one_sentence(database: Database, tmp_path: Path) -> None:
    import_table_1(database, tmp_path)
    (tmp_path / "file").write_text("in the way")
    result = run("--db", database.url, "--out", str(tmp_path / "file" / "r.html"))
    assert isinstance(result.exception, EvaluationError)
    assert "cannot write" in str(result.exception)


def test_command_refuses_a_database_that_is_not_there(tmp_path: Path) -> None:
    result = run("--db", f"sqlite:///{tmp_path / 'absent.db'}", "--out", str(tmp_path / "r.html"))
    assert isinstance(result.exception, ArenaError)
    assert not (tmp_path / "r.html").exists()
    assert not (tmp_path / "absent.db").exists()
