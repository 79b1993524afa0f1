from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from hotswap.training.evaluation.report import Answerer, EvalReport, make_report, metrics_for
from hotswap.training.pages.evaluation import page
from tests.training.evaluation.answers import answered_rows

NASTY = '<script>alert("1 & 2")</script>'


class Read(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.points = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        assert not {"src", "href", "onload"} & known.keys()
        self.points += len((known.get("points") or "").split())

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(pairs: list[tuple[str, str]], against: list[tuple[str, str]]) -> EvalReport:
    ours, theirs = (
        Answerer(name, None, tuple(answered_rows(rows)))
        for name, rows in (("ours", pairs), ("theirs", against))
    )
    return make_report(ours, [theirs], metrics_for([reference for _, reference in pairs]))


def test_a_page_needs_nothing_else_and_shows_rows_as_text() -> None:
    pairs = [(NASTY, "yes"), ("yes", "yes"), ("no", "no"), ("no", "no")]

    found = Read(page(report_of(pairs, pairs), f"{NASTY}.jsonl", {"base": NASTY}))

    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert found.text.count(NASTY) >= 3
    assert "Confusion" in found.text


def test_a_page_draws_the_runs_curves(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("step,train_loss,validation_loss\n1,3.5,\n2,2.5,2.75\n3,1.5,\n4,0.5,1.25\n")
    pairs = [("a b", "a b"), ("c", "d")]

    found = Read(page(report_of(pairs, pairs), "x.jsonl", {}, curve=curve))

    assert found.tags.count("polyline") == 2
    assert found.points == 4 + 2
    assert "train_loss" in found.text


def test_the_worst_answers_are_those_least_like_their_references() -> None:
    pairs = [("x y", "x y"), ("x z", "x y"), ("", "x y"), ("x q", "x y z w")]

    worst = report_of(pairs, pairs).worst

    assert [row.place.line for row in worst] == [3, 4, 2]


def test_what_a_set_does_not_measure_is_not_in_its_report() -> None:
    plain = report_of([("a", "b c"), ("d", "d")], [("a", "b c"), ("d", "d")])
    orders = report_of([('{"a": 1}', '{"a": 1}')] * 2, [("x", '{"a": 1}')] * 2)

    assert {"json_f1", "class_f1_micro"}.isdisjoint(plain.metrics)
    assert orders.metrics["json_f1"].value == 1
    assert orders.comparisons[0].differences["json_f1"].estimate.value == 1
