"""Questions -> answers: from the ledger where they were asked before, else from the endpoint, many at once.

Requests are made, reserved and written down by one thread; only the waiting for the server is done by many. An answer
counts when it is in the ledger. When a run is stopped (Ctrl-C, a limit, an error that no request can get past) nothing
more is sent, but what is in flight is waited for and kept: it is paid for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from atlas.derive.labelling.budget import Budget
from atlas.derive.labelling.client import Client, Stopped
from atlas.derive.labelling.ledger import Entry, Ledger, Row
from atlas.derive.labelling.prompts import repair_text
from atlas.derive.labelling.request import API_ERROR, PARSE_ERROR, Reply, Request, repair_of
from atlas.errors import AtlasError, ServiceError

_FIRST_FAILURES = 5  # before any answer of a run: a wrong parameter, not bad luck
_ROW_OF_FAILURES = 10  # and as many as are in flight: then the endpoint is taken to be out of order


@dataclass
class Desk:
    """What the requests of a run share: the endpoint, the budget, what is asked again, and why the run ends early."""

    client: Client | None  # None: nothing is sent, the ledger alone answers
    budget: Budget
    run: str
    retry: frozenset[str] = frozenset()  # final statuses that are asked again
    refresh: bool = False  # ask again where other neurons have other labels now
    concurrency: int = 16
    stop: threading.Event = field(default_factory=threading.Event)
    why: str | None = None  # what stopped the run, in words
    fault: AtlasError | None = None  # what stopped it, to be raised when everything is in order
    told: Callable[[], None] = lambda: None  # called after each group of answers
    failures_in_a_row: int = 0
    answered: bool = False  # the endpoint answered at least one request of this run

    def halt(self, why: str, fault: AtlasError | None = None) -> None:
        """Send nothing more."""
        self.why, self.fault = self.why or why, self.fault or fault
        self.stop.set()


def settled(ledger: Ledger, request: Request, desk: Desk) -> Row | None:
    """The final answer that the ledger has, if it is not to be asked again."""
    row = ledger.find(request)
    if row is None or (row["status"] in desk.retry and row["run"] != desk.run):
        return None
    if desk.refresh and row.get("origin", row["key"]) != request.key and row["run"] != desk.run:
        return None
    return row if row["status"] != PARSE_ERROR or row.get("origin") else None


def asked_of(request: Request, ledger: Ledger, desk: Desk) -> Request | None:
    """What is to be sent for a question: itself, or the mending of an unreadable answer; None when it is settled."""
    if settled(ledger, request, desk) is not None:
        return None
    before = ledger.find(request)
    unread = before is not None and before["status"] == PARSE_ERROR and not before.get("origin")
    return _repair(request, before) if unread and PARSE_ERROR not in desk.retry and before else request


def dispatch(requests: Iterable[Request], ledger: Ledger, desk: Desk) -> Iterator[tuple[Request, Row]]:
    """Answer questions, in whatever order the answers come; requests of one basis are sent once.

    Ends early when the desk stops. Questions that are not answered then are not yielded.
    """
    with ThreadPoolExecutor(max(1, desk.concurrency)) as pool:
        window = _Window(pool, ledger, desk)
        for request in requests:
            while window.full:  # before the ledger is asked: what is collected may answer this request too
                yield from window.collect()
            row = settled(ledger, request, desk)
            if row is not None:
                yield request, row
            elif desk.client is not None and (desk.stop.is_set() or not window.send(request)):
                break
        while window.flying:
            yield from window.collect()


class _Window:
    """The requests in flight."""

    def __init__(self, pool: ThreadPoolExecutor, ledger: Ledger, desk: Desk) -> None:
        self._pool, self._ledger, self._desk = pool, ledger, desk
        self.flying: dict[Future[Reply], Request] = {}
        self._alike: dict[str, list[Request]] = {}  # by basis: all that one answer is for

    @property
    def full(self) -> bool:
        return len(self.flying) >= self._desk.concurrency

    def send(self, request: Request) -> bool:
        """Send a request, or mend the answer that the ledger has; False when the run is to end."""
        if request.basis in self._alike:
            self._alike[request.basis].append(request)
            return True
        asked = asked_of(request, self._ledger, self._desk)
        if asked is None or not self._submit(asked):
            return False
        self._alike[request.basis] = [request]
        return True

    def collect(self) -> Iterator[tuple[Request, Row]]:
        """Wait for the next answers, write them down, and give those that are final."""
        done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
        found = [(self.flying.pop(one), one) for one in done]
        answered = [(request, reply) for request, one in found if (reply := self._reply(request, one)) is not None]
        rows = self._ledger.append([Entry(request, reply, self._desk.run) for request, reply in answered])
        for (request, reply), row in zip(answered, rows, strict=True):
            if reply.status == PARSE_ERROR and request.origin is None and self._mend(request, row):
                continue
            yield from ((one, row) for one in self._alike.pop(request.basis, [request]))
        self._desk.told()

    def _submit(self, request: Request) -> bool:
        client = self._desk.client
        if client is None or not self._desk.budget.reserve(request):
            self._desk.halt("the limit of this run is reached")
            return False
        self.flying[self._pool.submit(client.ask, request)] = request
        return True

    def _mend(self, request: Request, row: Row) -> bool:
        return not self._desk.stop.is_set() and self._submit(_repair(request, row))

    def _reply(self, request: Request, done: Future[Reply]) -> Reply | None:
        """The reply of a finished request; None when it was given up."""
        reply: Reply | None = None
        try:
            reply = done.result()
        except Stopped:
            pass
        except AtlasError as error:
            self._desk.halt("the endpoint cannot be used", error)
        self._desk.budget.settle(request, reply)
        if reply is not None:
            self._watch(reply)
        else:
            self._alike.pop(request.basis, None)
        return reply

    def _watch(self, reply: Reply) -> None:
        """Stop when nothing but failures comes: soon if nothing was ever answered, else after a row of them."""
        desk = self._desk
        desk.failures_in_a_row = desk.failures_in_a_row + 1 if reply.status == API_ERROR else 0
        desk.answered = desk.answered or reply.status != API_ERROR
        most = _ROW_OF_FAILURES + desk.concurrency if desk.answered else _FIRST_FAILURES
        if desk.failures_in_a_row >= most and desk.fault is None:
            told = f"{desk.failures_in_a_row} requests in a row failed, the last with: {reply.detail}"
            then = f'mend that (--model, --answers, --parameter) and run it again with "--retry {API_ERROR}"'
            desk.halt("the endpoint fails", ServiceError(f"{told}; {then}"))


def _repair(request: Request, row: Row) -> Request:
    reply = Reply(row["status"], text=row.get("text"), detail=row.get("detail"))
    return repair_of(request, reply, repair_text(reply.detail or "", request.form))
