"""Requests -> replies of an OpenAI-compatible endpoint, with retries.

429, 408, 409, 5xx and timeouts are tried again, a bounded number of times, after a growing, jittered wait or the one
that the server asks for in Retry-After (which all requests then keep). Other 4xx are not tried again; those that no
request can get past (a wrong key, an unknown model, no money left) stop the run.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from atlas.derive.labelling.answers import AnswerError
from atlas.derive.labelling.request import API_ERROR, OK, PARSE_ERROR, REFUSED, TRUNCATED, Reply, Request
from atlas.errors import InputError, ServiceError

if TYPE_CHECKING:
    import openai

_AGAIN = frozenset({408, 409, 429})
_LONGEST = 60.0  # seconds between two tries when the server names none
_PATIENCE = 600.0  # longest Retry-After that is kept


@dataclass(frozen=True)
class Endpoint:
    """Where requests go and how patient we are."""

    base_url: str
    api_key: str = field(repr=False)
    timeout: float = 120.0  # seconds of one try
    tries: int = 6
    pause: float = 1.0  # seconds before the second try; doubled each time


class Stopped(Exception):
    """The run was told to stop while a request waited for its next try; it was not answered."""


class Client:
    """One endpoint; `ask` may be called from many threads."""

    def __init__(self, endpoint: Endpoint, stop: threading.Event | None = None) -> None:
        from openai import OpenAI

        self.endpoint, self._stop = endpoint, stop or threading.Event()
        self._api = OpenAI(
            base_url=endpoint.base_url, api_key=endpoint.api_key, timeout=endpoint.timeout, max_retries=0
        )
        self._lock, self._not_before = threading.Lock(), 0.0

    def ask(self, request: Request) -> Reply:
        """Send one request, again where that helps; a failure is a reply with its status.

        Raises InputError (key, model), ServiceError (not reachable, no money) and Stopped.
        """
        fault, wait = _Fault("no try"), 0.0
        for attempt in range(1, self.endpoint.tries + 1):
            self._sleep(wait)
            got = self._try(request)
            if isinstance(got, Reply):
                return replace(got, attempts=attempt)
            fault, wait = got, self._wait(attempt, got.after)
        if fault.unreachable:
            where = self.endpoint.base_url
            raise ServiceError(f"cannot reach {where} ({fault.text}); start the server or give another --base-url")
        return Reply(API_ERROR, detail=fault.text, attempts=self.endpoint.tries)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _try(self, request: Request) -> Reply | _Fault:
        import openai

        try:
            raw = self._api.chat.completions.with_raw_response.create(
                model=request.body["model"],
                messages=request.body["messages"],
                extra_body={k: v for k, v in request.body.items() if k not in ("model", "messages")},
                extra_headers={"Idempotency-Key": request.key},  # servers that know it do not bill a repeat
            )
            return _reply(request, raw.http_response.content)
        except openai.APITimeoutError:
            return _Fault(f"no answer within {self.endpoint.timeout:g} s")
        except openai.APIConnectionError as error:
            return _Fault(str(error.__cause__ or error).splitlines()[0], unreachable=True)
        except openai.APIStatusError as error:
            return self._refused(error, request)

    def _refused(self, error: openai.APIStatusError, request: Request) -> Reply | _Fault:
        code, told = error.status_code, f"{error.status_code}: {_told(error)}"
        where = self.endpoint.base_url
        if code in (401, 403):
            raise InputError(f"{where} does not take the key ({told}); give --api-key or set OPENAI_API_KEY")
        if code == 404:
            model = request.body["model"]
            raise InputError(f"{where} has no model {model!r} ({told}); give another --model or --base-url")
        if code == 402 or "insufficient_quota" in told:
            raise ServiceError(
                f"{where} has no money left for this key ({told}); top it up and run the same command again"
            )
        if code in _AGAIN or code >= 500:
            return _Fault(told, after=_retry_after(error))
        return Reply(API_ERROR, detail=told)

    def _wait(self, attempt: int, after: float | None) -> float:
        """Seconds to the next try; a wait that the server asked for holds for all requests."""
        if after is None:
            return min(_LONGEST, self.endpoint.pause * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        wait = min(after, _PATIENCE)
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + wait)
        return wait + random.uniform(0, min(1.0, self.endpoint.pause))

    def _sleep(self, wait: float) -> None:
        with self._lock:
            held = self._not_before - time.monotonic()
        if max(wait, held) > 0 and self._stop.wait(max(wait, held)):
            raise Stopped


@dataclass(frozen=True)
class _Fault:
    """A try that may be worth another."""

    text: str
    after: float | None = None  # seconds that the server asks to wait
    unreachable: bool = False


def _reply(request: Request, content: bytes) -> Reply | _Fault:
    try:
        found = json.loads(content)
        choice = found["choices"][0]
        message = choice["message"]
    except (ValueError, KeyError, IndexError, TypeError):
        return _Fault(f"the response is no chat completion: {content[:80]!r}")
    usage = found.get("usage") or {}
    facts: dict[str, Any] = {
        "tokens_in": usage.get("prompt_tokens"), "tokens_out": usage.get("completion_tokens"),
        "model": found.get("model"),
    }  # fmt: skip
    return judge(request, message, choice.get("finish_reason"), facts)


def judge(request: Request, message: dict[str, Any], finish: str | None, facts: dict[str, Any]) -> Reply:
    """Tell an answer from a refusal, a cut text and one that does not fit. `facts`: tokens and model of the reply."""
    text = message.get("content") or ""
    if message.get("refusal") or finish == "content_filter":
        return Reply(REFUSED, text=text or None, detail=message.get("refusal") or "filtered by the server", **facts)
    try:
        return Reply(OK, request.form.read(text), **facts)
    except AnswerError as error:
        if finish == "length":
            told = f"the answer was cut at {request.answer_limit} tokens; give --max-tokens"
            return Reply(TRUNCATED, text=text, detail=told, **facts)
        return Reply(PARSE_ERROR, text=text, detail=str(error), **facts)


def _told(error: openai.APIStatusError) -> str:
    """What the server says is wrong, whatever shape it gives its errors."""
    body = error.body if isinstance(error.body, dict) else {}
    text = body.get("message") or error.response.text or error.message
    code = f" [{body['code']}]" if body.get("code") else ""
    return " ".join(str(text).split())[:300] + code


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds from Retry-After, a number or a date; None without one."""
    told = error.response.headers.get("retry-after-ms")
    try:
        if told is not None:
            return max(0.0, float(told) / 1000)
        told = error.response.headers.get("retry-after")
        if told is None:
            return None
        if told.strip().replace(".", "", 1).isdigit():
            return float(told)
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
