"""`atlas label score` from end to end: a real HTTP server judges by the words of the label; the atlas after."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest
from planted_labels import TOPICS, write_planted
from stub_server import Body, Play, Stub, serving

pytest.importorskip("openai")

import atlas
from atlas.build.label_scores import Scoring, estimate_scores, score_labels
from atlas.build.labelling import Sending
from atlas.cli import main as cli
from atlas.derive.labelling.client import Endpoint
from atlas.derive.labelling.request import Setting
from atlas.derive.labelling.scoring import Drawing, words_of
from atlas.derive.labelling.split import is_test
from atlas.errors import InputError, StoreError

DRAWING = Drawing(texts=6)


def judge(body: Body, seen: int) -> Play:
    """A text fits when it holds, or marks, a word of the description."""
    said = body["messages"][1]["content"]
    label, numbered = said.split("Description: ")[1].split("\n\nTexts:\n")
    texts = [line.partition(". ")[2] for line in numbered.split("\n</evidence>")[0].splitlines()]
    shown = [" ".join(re.findall("⟦(.*?)⟧", text)) if "⟦" in text else text for text in texts]
    fitting = [i for i, text in enumerate(shown, start=1) if words_of(label) & set(text.split())]
    return Play(content=json.dumps({"fitting": fitting}))


def asking(stub: Stub, *methods: str) -> Scoring:
    return Scoring(methods, Setting("m"), Sending(Endpoint(stub.url, "k", 5.0, 2, 0.01), concurrency=4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_planted(tmp_path / "planted.duckdb")


def test_scores_are_stored_with_their_baseline_and_nothing_is_paid_twice(file: Path) -> None:
    with serving(Stub(judge)) as stub:
        found = estimate_scores(file, asking(stub, "detection", "fuzzing"), drawing=DRAWING)
        made = score_labels(file, asking(stub, "fuzzing", "detection"), drawing=DRAWING)
        assert {name: requests for name, (requests, _) in found.items()} == {"detection": 16, "fuzzing": 16}
        assert made.sent == stub.requests == 32 and made.stopped is None
        again = score_labels(file, asking(stub, "fuzzing", "detection"), drawing=DRAWING)
        assert again.sent == 0 and stub.requests == 32 and again.methods == made.methods
    for one in made.methods:
        assert (one.drawn, one.tested, one.mean, one.low, one.high) == (TOPICS, TOPICS, 1, 1, 1)
        assert one.baseline is not None and 0.3 < one.baseline <= 0.5
    with atlas.open(file) as a:
        rows = a.sql(
            "SELECT method, count(*), min(score), min(n), any_value(model) FROM label_scores GROUP BY 1"
        ).fetchall()
        assert sorted(rows) == [("detection", 8, 1.0, 12, "m"), ("fuzzing", 8, 1.0, 6, "m")]
        assert a.sql("SELECT pass, count(score) FROM labels GROUP BY pass ORDER BY pass").fetchall() == [
            ("input", 8), ("output", 0),
        ]  # fmt: skip


def test_labels_show_the_score_of_the_first_method(file: Path) -> None:
    def half(body: Body, seen: int) -> Play:
        return judge(body, seen) if "⟦" in body["messages"][1]["content"] else Play(content='{"fitting": []}')

    with serving(Stub(half)) as stub:
        score_labels(file, asking(stub, "detection", "fuzzing"), drawing=DRAWING)
    with atlas.open(file) as a:
        assert a.sql("SELECT DISTINCT score FROM labels WHERE pass = 'input'").fetchall() == [(0.5,)]


def test_what_is_not_answered_has_no_score(file: Path) -> None:
    with serving(Stub(lambda body, seen: Play(refusal="no"))) as stub:
        made = score_labels(file, asking(stub, "detection"), drawing=DRAWING)
    assert [(one.drawn, one.tested, one.mean) for one in made.methods] == [(TOPICS, 0, None)]
    with atlas.open(file) as a:
        assert a.sql("SELECT count(*) FROM label_scores").fetchall() == [(0,)]


def test_bad_input_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ask an LLM: give --model"):
        score_labels(file, Scoring(("detection",)))
    with pytest.raises(InputError, match="there are detection, fuzzing, embedding, output"):
        score_labels(file, Scoring(("simulation",)))
    with pytest.raises(InputError, match="no embedder 'none'"):
        score_labels(file, Scoring(("embedding",), embedder="none"))
    with serving(Stub(judge)) as stub:
        with pytest.raises(InputError, match="of source 'llm'"):
            score_labels(file, asking(stub, "detection"), drawing=Drawing(source="llm"))
        con = duckdb.connect(str(file))
        con.execute("DELETE FROM exemplars")
        con.close()
        with pytest.raises(StoreError, match="holds no exemplars, which detection"):
            score_labels(file, asking(stub, "detection"))


def test_the_answer_says_what_is_not_held_out(file: Path) -> None:
    counted = f"evidence: token statistics, which {TOPICS} of these labels rest on too, include the test documents"

    def notes(**bound: str) -> tuple[str, ...]:
        con = duckdb.connect(str(file))
        for column, value in bound.items():
            con.execute(f"UPDATE labels SET {column} = $1 WHERE pass = 'input'", [value])
        con.close()
        with serving(Stub(judge)) as stub:
            return score_labels(file, asking(stub, "detection"), drawing=DRAWING).notes

    assert notes() == (counted,)
    assert notes(source="manual") == ()  # who knows what a person has read
    older = notes(source="rule:token", prompt_version="3")
    assert older[0] == counted and f"{TOPICS} rule labels were made from texts of all documents" in older[1]
    con = duckdb.connect(str(file))
    con.execute("DELETE FROM token_stats")
    con.close()
    assert notes(prompt_version="4") == ()
    con = duckdb.connect(str(file))
    con.execute("UPDATE contexts SET document = $1", [next(d for d in range(99) if is_test("made", d))])
    con.close()
    assert "made from texts of all documents" in notes()[0]
    assert notes(source="llm") == ()  # no text at all was shown to it


def test_the_command_says_the_result(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Stub(judge)) as stub:
        options = ["--model", "m", "--method", "detection", "--texts", "6", "--quiet", "--base-url", stub.url]
        for extra, told in (
            (["--dry-run"], "detection: 16 requests"),
            ([], "detection: 1.000 (95% interval 1.000 to 1.000"),
        ):
            with pytest.raises(SystemExit) as stop:
                cli.main(["label", "score", str(file), *options, *extra])
            out, err = capsys.readouterr()
            assert not stop.value.code, err
            assert told in out
    assert "over 8 of 8 labels, by m" in out and "16 requests sent" in out
    assert out.endswith("evidence: token statistics, which 8 of these labels rest on too, include the test documents\n")
