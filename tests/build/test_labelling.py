"""Labelling runs against a real HTTP server: waves in order, ledger, kills, limits, failures, what the atlas gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from stub_server import Body, Play, Stub, completion, content_key, good, serving
from synthetic import random_tables, small_tables, write_atlas

pytest.importorskip("openai")

import atlas
from atlas.build.label_batches import read_batch, write_batch
from atlas.build.labelling import (
    ASSUMED_NAME,
    Choice,
    Labelled,
    Sending,
    estimate_run,
    folder_of,
    label_atlas,
)
from atlas.cli.main import main
from atlas.derive.labelling.budget import Caps, Prices
from atlas.derive.labelling.client import Endpoint
from atlas.derive.labelling.request import Setting
from atlas.errors import AtlasError, InputError, ServiceError, StoreError
from atlas.progress import Lines

LAYERS, D_MLP = 5, 40
SETTING = Setting("m", {"temperature": 0.0, "max_tokens": 200})
_LAYER = re.compile(r"A neuron of layer (\d+)")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 layers of 40 neurons, each with a logit lens; edges and token statistics are drawn."""
    tables = random_tables(1)
    tables["logit_lens"] = [
        {"layer": layer, "neuron": n, "polarity": sign, "rank": r, "token_id": (n + r) % 50, "value": sign * (9 - r)}
        for layer in range(LAYERS) for n in range(D_MLP) for sign in (1, -1) for r in range(3)
    ]  # fmt: skip
    return write_atlas(tmp_path_factory.mktemp("atlas") / "drawn.duckdb", tables, layers=LAYERS, d_mlp=D_MLP)


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(made, tmp_path / "a.duckdb"))


def run(file: Path, stub: Stub, which: str = "output", *, choice: Choice | None = None, **sending: Any) -> Labelled:
    endpoint = Endpoint(stub.url, "k", sending.pop("timeout", 5.0), sending.pop("tries", 2), 0.01)
    how = Sending(endpoint, **{"concurrency": 4, **sending})
    return label_atlas(file, which, setting=sending.get("setting", SETTING), sending=how, choice=choice)


def labels(file: Path, where: str = "source = 'llm'") -> list[dict[str, Any]]:
    with atlas.open(file) as a:
        return a.sql(f'SELECT * FROM labels WHERE {where} ORDER BY layer, neuron, "pass", status').rows()


def layers_of(stub: Stub) -> list[int]:
    return [int(found[1]) for text in stub.order if (found := _LAYER.search(text))]


def test_layers_are_asked_in_the_order_of_the_pass_each_finished_before_the_next(file: Path) -> None:
    with serving() as stub:
        out = run(file, stub)
        assert layers_of(stub) == sorted(layers_of(stub), reverse=True) and len(set(layers_of(stub))) > 2
        stub.order.clear()
        inside = run(file, stub, "input")
        assert layers_of(stub) == sorted(layers_of(stub))
    assert out.statuses == {"ok": out.sent} and inside.statuses == {"ok": inside.sent}
    assert out.chosen == LAYERS * D_MLP == out.sent + out.unasked.get("without evidence", 0)


def test_a_prompt_shows_what_its_neighbours_were_just_called(file: Path) -> None:
    with serving() as stub:
        run(file, stub)
    told = {f"L{row['layer']}/N{row['neuron']}": row["label"] for row in labels(file)}
    shown = 0
    for body in stub.bodies.values():
        text = body["messages"][1]["content"]
        layer = int(_LAYER.search(text)[1])  # type: ignore[index]
        for other, name in re.findall(r'- (L\d+/N\d+) [^:\n]*: "([^"]*)"', text):
            assert int(other[1 : other.index("/")]) > layer
            if other in told:
                assert name == told[other]
                shown += 1
    assert shown > 100


def test_what_the_atlas_gets(file: Path) -> None:
    with serving() as stub:
        found = run(file, stub)
    rows = labels(file)
    assert len(rows) == found.written == found.sent
    row, bodies = rows[0], {content_key(body): body for body in stub.bodies.values()}
    assert {
        **row, "label": None, "short_label": None, "description": None, "prompt_hash": None, "created": None,
    } == {
        "layer": row["layer"], "neuron": row["neuron"], "pass": "output", "polarity": 0, "label": None,
        "short_label": None, "description": None, "type": "lexical", "interpretability": "high",
        "confidence": "llm-auto", "status": "ok", "source": "llm", "model": "m",
        "prompt_version": row["prompt_version"], "prompt_hash": None, "run": found.run, "score": None, "created": None,
    }  # fmt: skip
    assert re.fullmatch(r"output/\d+-[0-9a-f]{8}", row["prompt_version"]) and row["label"].startswith("label ")
    assert row["description"].startswith("output function ") and len(bodies) == found.sent
    with atlas.open(file) as a:
        of_row = f"layer = {row['layer']} AND neuron = {row['neuron']}"
        chosen = a.sql(f"SELECT label, output_label FROM neurons WHERE {of_row}").rows()
        assert chosen == [{"label": row["label"], "output_label": row["label"]}]
        assert all(check.healthy for check in a.check())
        step = a.sql(
            "SELECT key, rows_in, rows_out, rows_rejected FROM ingests WHERE step = 'labels:llm:output'"
        ).rows()
    assert step == [{"key": found.run, "rows_in": found.sent, "rows_out": found.sent, "rows_rejected": 0}]


def test_a_second_run_sends_nothing_and_leaves_the_file_alone(file: Path) -> None:
    with serving() as stub:
        first = run(file, stub)
        before = file.read_bytes()
        again = run(file, stub)
    assert stub.requests == first.sent and (again.sent, again.written, again.statuses) == (0, 0, first.statuses)
    assert file.read_bytes() == before


def test_the_ledger_alone_restores_a_lost_atlas(file: Path, made: Path) -> None:
    with serving() as stub:
        first = run(file, stub)
        rows = labels(file)
        shutil.copyfile(made, file)
        again = run(file, stub)
    assert (again.sent, again.written) == (0, first.sent) and labels(file) == rows


def command(file: Path, stub: Stub, *more: str) -> list[str]:
    code = "from atlas.cli.main import main; main()"
    words = ["label", "output", str(file), "--base-url", stub.url, "--api-key", "k", "--model", "m", "-q"]
    return [sys.executable, "-c", code, *words, *more]


def started(file: Path, stub: Stub, *more: str) -> subprocess.Popen[bytes]:
    root = Path(atlas.__file__).parents[1]
    return subprocess.Popen(command(file, stub, *more), cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def in_ledger(file: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder_of(file).glob("output/*.jsonl"))


def wait_for(what: Any, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("answers", [1, D_MLP - 4, 2 * D_MLP + 10])
def test_a_killed_run_resumes_without_one_repeated_request(file: Path, answers: int) -> None:
    """The server answers so many requests and holds the others, four of the same layer; then the run is killed."""
    gate, left, lock = threading.Event(), [answers], threading.Lock()

    def script(body: Body, seen: int) -> Play:
        with lock:
            left[0] -= 1
            held = left[0] < 0
        if held:
            gate.wait(240)
            return Play(500)
        return Play(content=good(body))

    before = file.read_bytes()
    with serving(Stub(script)) as stub:
        running = started(file, stub, "--concurrency", "4")
        wait_for(lambda: in_ledger(file) == answers)
        wait_for(lambda: stub.requests == answers + 4)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate()
        gate.set()
        assert file.read_bytes() == before
        paid = set(stub.answered)
        assert len(paid) == answers
        stub.asked.clear()
        stub.script = lambda body, seen: Play(content=good(body))
        found = run(file, stub)
        assert not paid & set(stub.asked)  # not one of those that were answered
        assert max(stub.asked.values()) == 1 and found.sent == sum(stub.asked.values())
    assert len(labels(file)) == found.sent + answers


def test_kills_at_any_time_repeat_only_what_was_in_flight(file: Path) -> None:
    with serving(Stub(lambda body, seen: Play(content=good(body), hang=0.02))) as stub:
        for number in range(3):
            running = started(file, stub, "--concurrency", "3")
            at = in_ledger(file) + 11 + number
            wait_for(lambda at=at: in_ledger(file) >= at)
            os.kill(running.pid, signal.SIGKILL)
            running.communicate()
        recorded = {json.loads(line)["key"] for path in folder_of(file).glob("output/*.jsonl") for line in path.open()}
        run(file, stub)
        assert len(recorded) >= 33
        assert sum(stub.asked.values()) - len(stub.asked) <= 3 * 3  # at most what each kill caught in flight


def test_ctrl_c_keeps_what_is_in_flight_and_writes_the_atlas(file: Path) -> None:
    with serving(Stub(lambda body, seen: Play(content=good(body), hang=0.05))) as stub:
        running = started(file, stub, "--concurrency", "4")
        wait_for(lambda: in_ledger(file) >= 20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=240)
        assert running.returncode == 130, err
        assert b"ended early: interrupted; the same command goes on" in out
        assert len(labels(file)) == in_ledger(file) == sum(stub.answered.values()) < LAYERS * D_MLP
        run(file, stub)
        assert max(stub.asked.values()) == 1


def test_two_runs_at_once_refuse_each_other(file: Path) -> None:
    gate = threading.Event()

    def script(body: Body, seen: int) -> Play:
        gate.wait(240)
        return Play(content=good(body))

    with serving(Stub(script)) as stub:
        first = threading.Thread(target=run, args=(file, stub), kwargs={"choice": Choice(sample=5)})
        first.start()
        wait_for(lambda: stub.requests > 0)
        with pytest.raises(StoreError, match=r"another run is labelling with .*a\.duckdb\.labels; wait for it"):
            run(file, stub)
        gate.set()
        first.join()
        assert stub.requests == 5
        assert run(file, stub, choice=Choice(sample=5)).sent == 0


@pytest.mark.parametrize("tail", [b'{"key": "0123', b"\xff\xfe\x00", b'{"status": "ok"}\n', b"null\n"])
def test_a_torn_or_damaged_end_of_the_ledger_costs_one_request(file: Path, tail: bytes) -> None:
    with serving() as stub:
        run(file, stub, choice=Choice(layers=(3, 3)))
        sent = stub.requests
        ledger = folder_of(file) / "output" / "layer_003.jsonl"
        whole = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join(whole[:-1]) + tail)
        again = run(file, stub, choice=Choice(layers=(3, 3)))
        assert (again.sent, stub.requests) == (1, sent + 1)
        assert run(file, stub, choice=Choice(layers=(3, 3))).sent == 0


def test_a_malformed_answer_is_mended_once(file: Path) -> None:
    def script(body: Body, seen: int) -> Play:
        mending = len(body["messages"]) == 4
        return Play(content=good(body) if mending else "I think it is about dogs")

    with serving(Stub(script)) as stub:
        found = run(file, stub, choice=Choice(sample=6))
        assert (found.sent, found.statuses) == (12, {"ok": 6})
        mended = [body["messages"] for body in stub.bodies.values() if len(body["messages"]) == 4]
        assert len(mended) == 6 and mended[0][2] == {"role": "assistant", "content": "I think it is about dogs"}
        assert "could not be read: there is no JSON object" in mended[0][3]["content"]
        assert '"interpretability": "high" | "medium" | "low"' in mended[0][3]["content"]
        assert run(file, stub, choice=Choice(sample=6)).sent == 0
        assert run(file, stub, choice=Choice(sample=6), retry=frozenset({"parse_error"})).sent == 0  # none is left


def test_a_run_killed_between_answer_and_mending_only_mends(file: Path) -> None:
    def script(body: Body, seen: int) -> Play:
        return Play(content=good(body) if len(body["messages"]) == 4 else "no")

    with serving(Stub(script)) as stub:
        found = run(file, stub, choice=Choice(sample=6), caps=Caps(requests=6), concurrency=1)
        assert found.sent == 6 and found.stopped == "the limit of this run is reached"
        again = run(file, stub, choice=Choice(sample=6))
        assert (again.sent, again.statuses) == (6, {"ok": 6}) and max(stub.asked.values()) == 1


FAILURES = {
    "parse_error": Play(content="no JSON"),
    "refused": Play(refusal="I cannot help with that"),
    "truncated": Play(content='{"label": "cut', finish="length"),
    "api_error": Play(status=400, content="too long"),
}


@pytest.mark.parametrize("status", FAILURES)
def test_a_failure_is_a_row_with_its_status_and_is_asked_again_only_on_request(file: Path, status: str) -> None:
    shown = labels(file, "true")
    with serving(Stub(lambda body, seen: FAILURES[status])) as stub:
        found = run(file, stub, choice=Choice(sample=3))
        assert found.statuses == {status: 3} and found.sent == (6 if status == "parse_error" else 3)
        rows = labels(file)
        assert {(row["status"], row["label"], row["short_label"], row["type"]) for row in rows} == {
            (status, None, None, None)
        }
        assert all(row["description"] for row in rows) and len(labels(file, "true")) == len(shown) + 3
        stub.script = lambda body, seen: Play(content=good(body))
        assert run(file, stub, choice=Choice(sample=3)).sent == 0
        assert run(file, stub, choice=Choice(sample=3), retry=frozenset(set(FAILURES) - {status})).sent == 0
        again = run(file, stub, choice=Choice(sample=3), retry=frozenset({status}))
        assert (again.sent, again.statuses) == (3, {"ok": 3})
    assert [row["status"] for row in labels(file)] == ["ok"] * 3


def test_a_failure_never_takes_a_label_away(file: Path) -> None:
    choice = Choice(layers=(2, 2), sample=4)
    with serving() as stub:
        run(file, stub, choice=choice)
        kept = labels(file)
        stub.script = lambda body, seen: FAILURES["refused"]
        other = Setting("m", {"temperature": 1.0})
        endpoint = Endpoint(stub.url, "k", 5, 1, 0.01)
        label_atlas(file, "output", setting=other, sending=Sending(endpoint), choice=choice)
    assert [row for row in labels(file) if row["status"] == "ok"] == kept
    assert len(labels(file)) == 8


def test_more_room_for_answers_asks_only_what_was_cut(file: Path) -> None:
    choice, cut = Choice(layers=(2, 2)), []

    def script(body: Body, seen: int) -> Play:
        if body["max_tokens"] == 200 and content_key(body) < "4":
            cut.append(body)
            return FAILURES["truncated"]
        return Play(content=good(body))

    with serving(Stub(script)) as stub:
        run(file, stub, choice=choice)
        longer, endpoint = Setting("m", {"temperature": 0.0, "max_tokens": 900}), Endpoint(stub.url, "k", 5, 1, 0.01)
        how = Sending(endpoint, retry=frozenset({"truncated"}))
        again = label_atlas(file, "output", setting=longer, sending=how, choice=choice)
    assert 0 < again.sent == len(cut) < again.statuses["ok"]


def test_a_neighbours_new_label_does_not_pay_again_unless_asked_to(file: Path) -> None:
    failing = set[str]()

    def script(body: Body, seen: int) -> Play:
        text = body["messages"][1]["content"]
        if "of layer 4 " in text and content_key(body) < "8" and not failing & {"off"}:
            return FAILURES["refused"]
        return Play(content=good(body))

    with serving(Stub(script)) as stub:
        first = run(file, stub)
        failing.add("off")
        again = run(file, stub, retry=frozenset({"refused"}))
        assert again.sent == first.statuses["refused"] > 0  # not the neurons of earlier layers that feed them
        fresh = run(file, stub, refresh=True)
        assert fresh.sent > 0
        assert run(file, stub, refresh=True).sent == 0


def test_a_sample_is_drawn_by_its_seed_and_is_not_paid_again_by_the_whole(file: Path) -> None:
    with serving() as stub:
        assert run(file, stub, choice=Choice(sample=20, seed=3)).sent == 20
        first = {(row["layer"], row["neuron"]) for row in labels(file)}
        assert run(file, stub, choice=Choice(sample=20, seed=3)).sent == 0
        other = run(file, stub, choice=Choice(sample=20, seed=4))
        assert other.sent > 10 and len(first) == 20
        everything = run(file, stub)
        assert everything.sent == everything.statuses["ok"] - 20 - other.sent


def test_layers_and_their_bounds(file: Path) -> None:
    with serving() as stub:
        run(file, stub, choice=Choice(layers=(1, 2)))
        assert set(layers_of(stub)) == {1, 2}
        with pytest.raises(InputError, match=r"no layer 9 to ask about: a\.duckdb has layers 0 to 4"):
            run(file, stub, choice=Choice(layers=(9, 12)))


def test_a_cap_on_requests_holds_and_the_next_run_goes_on(file: Path) -> None:
    with serving() as stub:
        found = run(file, stub, caps=Caps(requests=25))
        assert (found.sent, stub.requests, found.written) == (25, 25, 25) and found.stopped
        rest = run(file, stub)
        assert max(stub.asked.values()) == 1 and rest.statuses["ok"] == stub.requests == 25 + rest.sent


def test_a_cap_on_dollars_holds_even_if_every_answer_is_as_long_as_it_may_be(file: Path) -> None:
    prices = Prices(10.0, 40.0)
    with serving() as stub:
        found = run(file, stub, prices=prices, caps=Caps(usd=0.25), concurrency=2)
    # the stub reports 100 tokens read and 20 written a request
    assert found.usd == pytest.approx(found.sent * (100 * 10 + 20 * 40) / 1e6) and 0 < found.usd <= 0.25
    assert 0 < found.sent == stub.requests < 200 and found.stopped
    with pytest.raises(InputError, match="--max-usd needs prices"):
        run(file, stub, caps=Caps(usd=1.0))


def test_an_estimate_is_what_hand_counting_gives(file: Path) -> None:
    how = Sending(None, Prices(0.25, 2.0))
    found = estimate_run(file, "output", setting=SETTING, sending=how, choice=Choice(layers=(4, 4)))
    with serving() as stub:
        sent = run(file, stub, choice=Choice(layers=(4, 4)))  # nothing is asked before layer 4: the very prompts
        half = estimate_run(file, "output", setting=SETTING, sending=how, choice=Choice(layers=(3, 4)))
    tokens = sum(
        -(-(sum(len(m["content"].encode()) for m in body["messages"]) + len(json.dumps(body["response_format"]))) // 4)
        for body in stub.bodies.values()
    )
    assert (found.requests, found.tokens_in, found.tokens_out) == (sent.sent, tokens, sent.sent * 130)
    assert found.usd == pytest.approx(tokens * 0.25e-6 + sent.sent * 130 * 2e-6)
    assert half.answered == sent.sent and half.requests > 0 and len(ASSUMED_NAME) == 60
    assert not labels(file, "source = 'llm' AND layer = 3") and stub.requests == sent.sent


def test_a_wrong_key_stops_the_run_with_one_line_and_keeps_what_there_is(file: Path) -> None:
    def script(body: Body, seen: int) -> Play:
        return Play(content=good(body)) if len(stub.answered) < 5 else Play(401, content="expired")

    with serving(Stub(script)) as stub:
        with pytest.raises(InputError, match=r"does not take the key \(401: expired\)"):
            run(file, stub, concurrency=1)
        assert len(labels(file)) == in_ledger(file) == 5 and stub.requests == 6
        stub.script = lambda body, seen: Play(content=good(body))
        assert run(file, stub).sent == stub.requests - 6


@pytest.mark.parametrize(("good_before", "row"), [(0, 5), (3, 14)])
def test_an_endpoint_that_only_fails_stops_the_run(file: Path, good_before: int, row: int) -> None:
    def script(body: Body, seen: int) -> Play:
        if len(stub.answered) < good_before:
            return Play(content=good(body))
        return Play(400, content=b'{"detail": "unknown response_format"}')

    with serving(Stub(script)) as stub:
        message = rf'{row} requests in a row failed, the last with: 400: {{"detail": "unknown response_format"}}; mend'
        with pytest.raises(ServiceError, match=message):
            run(file, stub)
        assert row <= stub.requests <= good_before + row + 2 * 4
    assert len(labels(file, "source = 'llm' AND status = 'ok'")) == len(stub.answered)


def test_a_dead_endpoint_writes_nothing(file: Path) -> None:
    before = file.read_bytes()
    with serving() as stub:
        pass
    with pytest.raises(ServiceError, match="cannot reach"):
        run(file, stub)
    assert file.read_bytes() == before and in_ledger(file) == 0


def test_a_slow_answer_is_waited_for_and_a_timeout_is_tried_again(file: Path) -> None:
    with serving(Stub(lambda body, seen: Play(content=good(body), hang=0.6 if seen == 0 else 0.0))) as stub:
        found = run(file, stub, choice=Choice(sample=2), timeout=0.3)
        assert (found.statuses, found.sent, stub.requests) == ({"ok": 2}, 2, 4)
        slow = run(file, stub, choice=Choice(sample=3, seed=9), timeout=5.0)
        assert slow.statuses == {"ok": 3}


def bare(tmp_path: Path, *drop: str) -> Path:
    tables = small_tables()
    for name in drop:
        tables[name] = []
    tmp_path.mkdir(exist_ok=True)
    return write_atlas(tmp_path / "bare.duckdb", tables)


def test_an_atlas_without_some_evidence_says_which_prompts_lack_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bare(tmp_path, "exemplars", "read_tokens", "token_edges")
    with serving() as stub:
        sending = Sending(Endpoint(stub.url, "k"))
        found = label_atlas(file, "input", setting=SETTING, sending=sending, progress=Lines())
    assert found.sent > 0 and found.unasked["without evidence"] > 0
    said = "prompts without texts that fire it, tokens its weights read, token edges: bare.duckdb has none"
    assert said in capsys.readouterr().err


def test_an_atlas_with_nothing_to_show_is_refused_with_the_next_step(tmp_path: Path) -> None:
    told = ("exemplars", "read_tokens", "token_edges", "token_stats", "edges", "edges_in", "edges_top", "wiring")
    file = bare(tmp_path, *told)
    with serving() as stub, pytest.raises(StoreError, match=r"holds nothing to make input labels from .*atlas build"):
        run(file, stub, "input")
    assert stub.requests == 0


def test_texts_kept_for_scores_are_never_shown(tmp_path: Path) -> None:
    """Document 0 of the hand-made atlas is for labels, document 1 for scores."""
    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    with serving() as stub:
        run(file, stub, "input")
    (shown,) = (t for t in stub.order if "Texts with positive activation" in t)
    assert "1. ⟦ the⟧0" not in shown and " dog" in shown and "aspirin⟧" not in "".join(stub.order)


def test_neurons_that_a_rule_settles_are_not_asked(tmp_path: Path) -> None:
    tables = small_tables()
    first = tables["labels"][0]
    tables["labels"] += [
        {**first, "pass": "input", "source": "rule:dead", "neuron": 0},
        {**first, "pass": "input", "source": "rule:bos", "neuron": 1},
        {**first, "pass": "input", "source": "rule:tokens", "neuron": 2},
    ]
    file = write_atlas(tmp_path / "ruled.duckdb", tables)
    with serving() as stub:
        layer = Choice(layers=(0, 0))
        assert run(file, stub, "input", choice=layer).unasked["settled by a rule"] == 2
        assert run(file, stub, "output", choice=layer).unasked["settled by a rule"] == 1
        everyone = run(file, stub, "input", choice=Choice(layers=(0, 0), everyone=True))
        assert everyone.unasked.get("settled by a rule", 0) == 0 and everyone.sent == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no model is named; give --model"),
        (["--model", "m"], "no endpoint: give --base-url and --api-key"),
        (["--model", "m", "--dry-run", "--layers", "5:1"], "cannot read layers from '5:1'"),
        (["--model", "m", "--dry-run", "--max-usd", "1"], "--max-usd needs prices"),
        (["--model", "m", "--dry-run", "--price-in", "1"], "belong together"),
        (["--model", "m", "--dry-run", "--parameter", "top_p"], "expected NAME=JSON"),
        (["--model", "m", "--dry-run", "--parameter", "n=2"], "cannot be given"),
        (["--model", "m", "--dry-run", "--prices", "none.toml"], "no price table at none.toml"),
    ],
)
def test_options_that_do_not_do(
    file: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ATLAS_LABEL_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["label", "output", str(file), *words])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


def test_the_command_with_prices_from_a_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.toml").write_text('["some/model"]\nin = 1\nout = 8.0\n')
    with serving() as stub:
        monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
        monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
        monkeypatch.setenv("ATLAS_LABEL_MODEL", "some/model")
        with pytest.raises(SystemExit) as stop:
            words = f"--sample 7 --prices {tmp_path}/p.toml --format json --parameter temperature=null"
            main(["label", "output", str(file), *words.split(), "--parameter", "top_p=0.5"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert stop.value.code == 0 and found["statuses"] == {"ok": 7}
    assert found["usd"] == pytest.approx(7 * (100 + 20 * 8) / 1e6) and "7/7 neurons" in err and "tokens, $0.00" in err
    assert stub.keys == ["Bearer from the environment"] * 7
    body = next(iter(stub.bodies.values()))
    assert (body["model"], body["top_p"], "temperature" in body) == ("some/model", 0.5, False)


def test_faults_are_atlas_errors() -> None:
    assert issubclass(ServiceError, AtlasError) and ServiceError.exit_code == 1


def test_modules_are_named_from_the_deepest_level_up(file: Path) -> None:
    with serving() as stub:
        forecast = estimate_run(file, "clusters", setting=SETTING, sending=Sending(None))
        found = run(file, stub, "clusters")
        assert found.sent == forecast.requests == stub.requests and found.unit == "modules"
        with atlas.open(file) as a:
            named = dict(a.sql("SELECT cluster_path, label FROM clusters").fetchall())
            rows = a.sql("SELECT * FROM cluster_labels ORDER BY cluster_path").rows()
            assert all(check.healthy for check in a.check())
        parts = ["Its largest parts" in text for text in stub.order]
        assert parts == sorted(parts) and any(parts) and not all(parts)
        shown = [name for text in stub.order for name in re.findall(r'- \d+ neurons: "([^"]*)"', text)]
        assert shown and set(shown) <= set(named.values())  # names that this run gave
        assert {row["cluster_path"]: row["label"] for row in rows} == {path: named[path] for path in named if path in
            {row["cluster_path"] for row in rows}}  # fmt: skip
        assert {(row["clustering"], row["status"], row["source"], row["model"]) for row in rows} == {
            ("infomap", "ok", "llm", "m")
        }
        again = run(file, stub, "clusters")
        assert (again.sent, again.written) == (0, 0)
        large = run(file, stub, "clusters", choice=Choice(layers=(1, 1), at_least=40))
        assert large.sent == 0 and 0 < large.chosen <= 4


def test_modules_need_modules_and_labels(tmp_path: Path) -> None:
    for lacking in ("clusters", "labels"):
        with serving() as stub, pytest.raises(StoreError, match="holds nothing to make clusters labels from"):
            run(bare(tmp_path / lacking, lacking), stub, "clusters")


def answer_batch(requests: Path, answers: Path, *, spoil: bool = False) -> int:
    """What a batch API would give back for a file of requests, in another order."""
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    out = []
    for number, line in enumerate(reversed(lines)):
        body = json.loads(completion(Play(content="no" if spoil and number == 0 else good(line["body"])), line["body"]))
        out.append({"id": "b", "custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
    if spoil:
        out[1] = {"custom_id": out[1]["custom_id"], "response": None, "error": {"message": "expired"}}
    text = "".join(json.dumps(line) + "\n" for line in out)
    answers.write_text(text + ('{"custom_id": "of another", "response": null}\nnot JSON\n' if spoil else ""))
    return len(lines)


def test_batches_go_layer_by_layer_and_are_taken_in(file: Path, tmp_path: Path) -> None:
    asked, total = (SETTING, Sending(None), Choice(layers=(3, 4))), 0
    for number in range(4):
        requests, answers = tmp_path / f"{number}.jsonl", tmp_path / f"{number}.out.jsonl"
        made = write_batch(file, "output", requests, asked=asked)
        if not made.requests:
            break
        assert made.waves == [[4], [4], [3]][number]  # the second mends an answer
        total += answer_batch(requests, answers, spoil=number == 0)
        taken, _ = read_batch(file, "output", answers, asked=asked)
        if number == 0:
            assert (taken.unknown, taken.damaged, taken.already) == (1, 1, 0)
            assert taken.statuses == {"api_error": 1, "ok": made.requests - 2, "parse_error": 1}
            assert made.left == 1
            with pytest.raises(InputError, match="exists"):
                write_batch(file, "output", requests, asked=asked)
    assert total == 2 * D_MLP + 1  # one answer was mended
    assert [row["status"] for row in labels(file)].count("ok") == 2 * D_MLP - 1
    again, _ = read_batch(file, "output", tmp_path / "1.out.jsonl", asked=asked)
    assert again.already > 0 and again.statuses == {}
    with serving() as stub:  # a later run with an endpoint takes the answers of the batches
        assert run(file, stub, choice=Choice(layers=(3, 4))).sent == 0
        assert stub.requests == 0


def test_all_layers_at_once_and_answers_without_a_batch(file: Path, tmp_path: Path) -> None:
    asked = (SETTING, Sending(None, caps=Caps(requests=150)), Choice())
    with pytest.raises(InputError, match="no answers at"):
        read_batch(file, "output", tmp_path / "none", asked=asked)
    (tmp_path / "some").write_text("{}")
    with pytest.raises(InputError, match="no batch was written for this atlas"):
        read_batch(file, "output", tmp_path / "some", asked=asked)
    made = write_batch(file, "output", tmp_path / "all.jsonl", asked=asked, at_once=True)
    assert (made.requests, made.held, made.left) == (150, LAYERS * D_MLP - 150, 0) and len(made.waves) == 4
    keys = [json.loads(line)["custom_id"] for line in (tmp_path / "all.jsonl").open()]
    assert len(set(keys)) == 150 and all(len(key) <= 64 for key in keys)


def test_a_file_of_another_tool_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "other.duckdb"
    con = duckdb.connect(str(file))
    con.execute("CREATE TABLE neurons AS SELECT 0 AS layer, i AS neuron, 'x' AS label FROM range(4) AS r(i)")
    con.execute("CREATE TABLE edges AS SELECT 0 AS src_layer, 0 AS src_neuron, 0 AS tgt_layer, 1 AS tgt_neuron, "
                "1 AS count, 1.0 AS weight_sum, 1.0 AS weight_abs_sum")  # fmt: skip
    con.close()
    with serving() as stub, pytest.raises(StoreError, match="another tool wrote it"):
        run(file, stub)
    assert stub.requests == 0
