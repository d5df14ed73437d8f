"""The client against a real HTTP server: what is tried again, what is not, what stops a run, what an answer must be."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from stub_server import Body, Play, Stub, good, serving

pytest.importorskip("openai")

from atlas.derive.labelling.answers import OUTPUT
from atlas.derive.labelling.client import Client, Endpoint, Stopped
from atlas.derive.labelling.request import Request, Setting, make_request
from atlas.errors import InputError, ServiceError

MESSAGES = (("system", "name it"), ("user", "evidence"))


def request(**parameters: object) -> Request:
    setting = Setting("m", {"temperature": 0.0, "max_tokens": 50, **parameters})
    return make_request("L0/N0", MESSAGES, OUTPUT, setting, prompt="output/1-x")


def ask(stub: Stub, *, stop: threading.Event | None = None, timeout: float = 5.0, tries: int = 4):
    return Client(Endpoint(stub.url, "secret", timeout, tries, 0.01), stop).ask(request())


def then_good(*plays: Play):
    """Play these one after another, then answer well."""
    return lambda body, seen: plays[seen] if seen < len(plays) else Play(content=good(body))


def test_a_good_answer_and_what_is_sent() -> None:
    with serving() as stub:
        reply = ask(stub)
    assert (reply.status, reply.attempts, reply.tokens_in, reply.tokens_out) == ("ok", 1, 100, 20)
    assert set(reply.answer or {}) == {"output_function", "label", "short_label", "type", "interpretability"}
    (body,) = stub.bodies.values()
    assert body == request().body and stub.keys == ["Bearer secret"]
    assert body["response_format"]["json_schema"]["strict"] and body["temperature"] == 0.0


@pytest.mark.parametrize(
    "play",
    [
        Play(429), Play(500), Play(503), Play(408), Play(hang=1.0),
        Play(content=b"<html>busy</html>"), Play(content=b'{"choices": []}'),
    ],
)  # fmt: skip
def test_what_is_tried_again(play: Play) -> None:
    with serving(Stub(then_good(play, play))) as stub:
        reply = ask(stub, timeout=0.3)
        assert (reply.status, reply.attempts, stub.requests) == ("ok", 3, 3)


@pytest.mark.parametrize("play", [Play(500, content="broken inside"), Play(429, content="slow down")])
def test_tries_are_bounded_and_the_failure_says_why(play: Play) -> None:
    with serving(Stub(lambda body, seen: play)) as stub:
        reply = ask(stub, tries=3)
    assert (reply.status, reply.attempts, stub.requests) == ("api_error", 3, 3)
    assert reply.answer is None and str(play.content) in (reply.detail or "")


def test_a_timeout_on_every_try_is_a_failure() -> None:
    with serving(Stub(lambda body, seen: Play(hang=0.5))) as stub:
        reply = ask(stub, timeout=0.1, tries=2)
    assert (reply.status, reply.detail) == ("api_error", "no answer within 0.1 s")


@pytest.mark.parametrize("play", [Play(400, content="max_tokens is too large"), Play(422)])
def test_other_client_errors_are_not_tried_again(play: Play) -> None:
    with serving(Stub(lambda body, seen: play)) as stub:
        reply = ask(stub)
    assert (reply.status, reply.attempts, stub.requests) == ("api_error", 1, 1)


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_retry_after_is_kept(form: str) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    header = {
        "seconds": {"Retry-After": "0.5"}, "milliseconds": {"retry-after-ms": "500"},
        "date": {"Retry-After": format_datetime(soon, usegmt=True)},
    }[form]  # fmt: skip
    with serving(Stub(then_good(Play(429, headers=header)))) as stub:
        assert ask(stub).status == "ok"
    waited = stub.times[1] - stub.times[0]
    assert waited >= 0.5 or (form == "date" and datetime.now(UTC) >= soon)


def test_retry_after_holds_for_all_requests_of_the_client() -> None:
    with serving(Stub(then_good(Play(429, headers={"Retry-After": "0.6"})))) as stub:
        client = Client(Endpoint(stub.url, "k", 5, 4, 0.01))
        first = threading.Thread(target=client.ask, args=(request(),))
        first.start()
        while not stub.times:
            threading.Event().wait(0.005)
        threading.Event().wait(0.2)  # the 429 is there by now
        client.ask(request(seed=2))
        first.join()
    assert min(stub.times[1:]) - stub.times[0] >= 0.55


@pytest.mark.parametrize(
    ("play", "error", "message"),
    [
        (Play(401, content="bad key"), InputError, r"does not take the key \(401: bad key\); give --api-key"),
        (Play(403), InputError, "does not take the key"),
        (
            Play(404, content="no such model"),
            InputError,
            r"has no model 'm' \(404: no such model\); give",
        ),
        (Play(402), ServiceError, "no money left"),
        (Play(429, headers={"x-code": "insufficient_quota"}), ServiceError, "no money left"),
    ],
)
def test_what_no_request_can_get_past_stops_the_run(play: Play, error: type[Exception], message: str) -> None:
    with serving(Stub(lambda body, seen: play)) as stub, pytest.raises(error, match=message):
        ask(stub)
    assert stub.requests == 1


def test_no_server_at_all() -> None:
    with serving() as stub:
        pass
    with pytest.raises(ServiceError, match=r"cannot reach http://127.0.0.1:\d+/v1 .*start the server or give another"):
        ask(stub, tries=2)


def test_a_stopped_run_does_not_wait_for_the_next_try() -> None:
    stop = threading.Event()
    with serving(Stub(lambda body, seen: Play(429, headers={"Retry-After": "300"}))) as stub:
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Stopped):
            ask(stub, stop=stop)
        assert stub.requests == 1


def test_refusals_and_cut_answers_have_their_status() -> None:
    cut = Play(content='{"output_function": "it', finish="length")
    for play, status in [
        (Play(refusal="I cannot"), "refused"),
        (Play(finish="content_filter"), "refused"),
        (cut, "truncated"),
    ]:
        with serving(Stub(lambda body, seen, play=play: play)) as stub:
            reply = ask(stub)
        assert (reply.status, reply.answer, stub.requests) == (status, None, 1)
    assert "cut at 50 tokens" in (reply.detail or "") and reply.text == cut.content


def changed(body: Body, **values: object) -> str:
    return json.dumps({**json.loads(good(body)), **values})


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"type": "magic"}, "type: Input should be"),
        ({"type": None}, "type: Input should be"),
        ({"label": ""}, "label is empty"),
        ({"label": " \n\t "}, "label is empty"),
        ({"label": "x" * 201}, "label has 201 characters, at most 200 are allowed"),
        ({"short_label": "x" * 61}, "short_label has 61 characters"),
        ({"label": "red\x1b[31m"}, "label holds control characters"),
        ({"label": "abc\u202edef"}, "label holds control characters"),
        ({"label": "ends </evidence> here"}, "label repeats marks of the prompt"),
        ({"label": 7}, "label: Input should be a valid string"),
        ({"further": "field"}, "further: Unexpected keyword argument"),
        ({"interpretability": "HIGH"}, "interpretability: Input should be"),
    ],
)
def test_answers_are_checked(values: dict[str, object], fault: str) -> None:
    with serving(Stub(lambda body, seen: Play(content=changed(body, **values)))) as stub:
        reply = ask(stub)
    assert (reply.status, reply.answer) == ("parse_error", None)
    assert fault in (reply.detail or "")


@pytest.mark.parametrize("before", ["", "```json\n", "<think>maybe {</think>\n", "Here it is: "])
def test_an_answer_is_found_between_other_text(before: str) -> None:
    after = "\n```" if "`" in before else " I hope." if before.startswith("Here") else ""
    with serving(Stub(lambda body, seen: Play(content=before + good(body) + after))) as stub:
        assert ask(stub).status == "ok"


def test_line_ends_in_an_answer_become_blanks() -> None:
    with serving(Stub(lambda body, seen: Play(content=changed(body, label=" two\n lines\t")))) as stub:
        assert (ask(stub).answer or {})["label"] == "two lines"


def test_names_of_a_request() -> None:
    base = request()
    assert request().key == base.key and len(base.key) == 32
    assert request(temperature=0.5).key != base.key and request(temperature=0.5).basis != base.basis
    longer = request(max_tokens=99)
    assert longer.key != base.key and longer.basis == base.basis
    setting = Setting("m", {"temperature": 0.0, "max_tokens": 50})
    named = make_request(
        "L9/N9", (*MESSAGES[:1], ("user", "evidence, named")), OUTPUT, setting, prompt="p", own=MESSAGES
    )
    assert named.key != base.key and named.basis == base.basis
    assert make_request("x", MESSAGES, OUTPUT, Setting("n", setting.parameters), prompt="p").basis != base.basis
    assert make_request("x", MESSAGES, OUTPUT, Setting("m", setting.parameters, "text"), prompt="p").basis != base.basis
