"""Answers from the ledger and from a real server; equal questions are one request; budgets and price tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stub_server import Stub, serving

pytest.importorskip("openai")

from atlas.derive.labelling.answers import OUTPUT
from atlas.derive.labelling.budget import Budget, Caps, Prices, estimate, read_prices
from atlas.derive.labelling.client import Client, Endpoint
from atlas.derive.labelling.dispatch import Desk, dispatch
from atlas.derive.labelling.ledger import Entry, Ledger, locked
from atlas.derive.labelling.request import Reply, Request, Setting, make_request
from atlas.errors import InputError, StoreError


def request(subject: str, text: str) -> Request:
    messages = (("system", "name it"), ("user", text))
    return make_request(subject, messages, OUTPUT, Setting("m"), prompt="output/1-x")


def desk(stub: Stub, **given: object) -> Desk:
    return Desk(Client(Endpoint(stub.url, "k", 5, 2, 0.01)), Budget(), "r1", concurrency=3, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("alike", [1, 2, 7])
def test_equal_questions_are_sent_once_and_answer_all(tmp_path: Path, alike: int) -> None:
    """Also when the same question comes again while it is in flight, and after it was answered."""
    questions = [request(f"L0/N{i}", f"text {i // alike}") for i in range(14)]
    with serving() as stub:
        found = list(dispatch(questions, Ledger(tmp_path / "a.jsonl"), desk(stub)))
    assert sorted(int(one.subject[4:]) for one, _ in found) == list(range(14))
    assert stub.requests == len({one.key for one in questions}) and max(stub.asked.values()) == 1
    told = {one.key: row["answer"] for one, row in found}
    assert all(row["answer"] == told[one.key] for one, row in found)


def test_a_ledger_gives_back_what_was_put_in_whatever_the_text(tmp_path: Path) -> None:
    file, strange = tmp_path / "x" / "a.jsonl", 'two\nlines "and" \u2028 \ud800 tail'
    ledger, asked = Ledger(file), request("L0/N0", "text")
    assert ledger.find(asked) is None
    (row,) = ledger.append([Entry(asked, Reply("parse_error", text=strange, tokens_in=3), "r1")])
    again = Ledger(file)
    assert len(again) == 1 and again.damaged == 0
    found = again.find(asked)
    assert found is not None and found["tokens_in"] == 3 and found["status"] == "parse_error"
    assert found["text"] == strange.replace("\ud800", "?") and row["key"] == found["key"]
    assert len(file.read_bytes().splitlines()) == 1


def test_the_last_answer_of_a_question_holds(tmp_path: Path) -> None:
    ledger, asked = Ledger(tmp_path / "a.jsonl"), request("L0/N0", "text")
    for status in ("refused", "api_error", "ok"):
        ledger.append([Entry(asked, Reply(status, answer={"label": "x"} if status == "ok" else None), "r1")])
    assert (Ledger(ledger.file).find(asked) or {})["status"] == "ok"


def test_damaged_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    file, asked = tmp_path / "a.jsonl", request("L0/N0", "text")
    Ledger(file).append([Entry(asked, Reply("ok", answer={}), "r1")])
    file.write_bytes(b"\x00\x00\n" + file.read_bytes() + b"[1]\n\n" + b"x" * 10_000_000 + b"\n{")
    ledger = Ledger(file)
    assert ledger.damaged == 4 and ledger.find(asked) is not None
    ledger.append([Entry(request("L0/N1", "other"), Reply("ok", answer={}), "r1")])
    assert len(Ledger(file)) == 2  # the torn end did not swallow the line after it


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path / "f"), pytest.raises(StoreError, match="another run"), locked(tmp_path / "f"):
        pass
    with locked(tmp_path / "f"):
        pass


def test_a_budget_counts_what_the_server_says_and_estimates_where_it_does_not() -> None:
    one, budget = request("L0/N0", "text"), Budget(Prices(1.0, 10.0), Caps(usd=100.0))
    told = len(json.dumps(one.body["response_format"])) + len("name it") + len("text")
    assert estimate(one) == -(-told // 4)
    assert budget.reserve(one)
    budget.settle(one, Reply("ok", tokens_in=1_000, tokens_out=50))
    assert (budget.requests, budget.tokens_in, budget.tokens_out) == (1, 1_000, 50)
    assert budget.usd == pytest.approx((1_000 + 500) / 1e6)
    assert budget.reserve(one)
    budget.settle(one, Reply("parse_error", text="?"))
    assert budget.tokens_in == 1_000 + estimate(one)
    assert budget.reserve(one)
    budget.settle(one, None)  # given up before it was sent
    assert budget.requests == 2


def test_requests_in_flight_are_reserved_at_their_longest() -> None:
    one = request("L0/N0", "text")
    most = Prices(1.0, 10.0).cost(estimate(one), 500)
    budget = Budget(Prices(1.0, 10.0), Caps(usd=2.5 * most))
    assert [budget.reserve(one) for _ in range(3)] == [True, True, False]
    budget.settle(one, Reply("ok", tokens_in=1, tokens_out=1))
    assert budget.reserve(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("in = 1", r'has no \["m"\] with in and out'),
        ("[m]\nin = 1", r'has no \["m"\]'),
        ('[m]\nin = "1"\nout = 2', r'has no \["m"\]'),
        ("[m]\nin = -1\nout = 2", r'has no \["m"\]'),
        ("[m", "is not TOML"),
        ("\xff", "is not TOML"),
    ],
)
def test_a_price_table_that_does_not_do(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read_prices(tmp_path / "p.toml", "m")
