"""Requests -> tokens and money: an estimate before they are sent, the server's own counts after.

Before anything is sent a token is taken for 4 bytes of UTF-8 of messages and schema, and an answer for ANSWER_TOKENS
tokens. While a run goes on, each request in flight is reserved with its estimate and the longest answer allowed, so
that --max-usd holds even if all of them take that long.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from atlas.derive.labelling.request import Reply, Request
from atlas.errors import InputError

BYTES_PER_TOKEN = 4
ANSWER_TOKENS = 130  # of a function, a label, a short label and two choices


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    tokens_in: float
    tokens_out: float

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars for so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True)
class Caps:
    """What a run may spend; None is no limit."""

    usd: float | None = None
    requests: int | None = None


def read_prices(file: Path, model: str) -> Prices:
    """The prices of a model from a TOML file: a table per model, `[model-name]`, with `in` and `out` per million."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no price table at {file}; give --price-in and --price-out instead") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML ({error}); expected [model] tables with in and out") from error
    found = table.get(model)
    if not isinstance(found, dict) or not all(_is_price(found.get(name)) for name in ("in", "out")):
        raise InputError(f'{file} has no ["{model}"] with in and out (US dollars per million tokens); add them')
    return Prices(float(found["in"]), float(found["out"]))


def estimate(request: Request) -> int:
    """Tokens that the model will read, at BYTES_PER_TOKEN bytes each, rounded up."""
    return -(-request.characters // BYTES_PER_TOKEN)


class Budget:
    """What was sent and what it cost, and whether there is room for one request more."""

    def __init__(self, prices: Prices | None = None, caps: Caps | None = None) -> None:
        self.prices, self.caps = prices, caps or Caps()
        if self.caps.usd is not None and prices is None:
            raise InputError("--max-usd needs prices: give --price-in and --price-out, or --prices FILE")
        self.requests = self.tokens_in = self.tokens_out = 0
        self._flying = 0.0

    @property
    def usd(self) -> float | None:
        """Dollars spent on what was answered; None without prices."""
        return None if self.prices is None else self.prices.cost(self.tokens_in, self.tokens_out)

    def reserve(self, request: Request) -> bool:
        """Whether one more request fits; if so it counts as sent."""
        most = self._most(request)
        if self.caps.requests is not None and self.requests >= self.caps.requests:
            return False
        if self.caps.usd is not None and (self.usd or 0.0) + self._flying + most > self.caps.usd:
            return False
        self.requests += 1
        self._flying += most
        return True

    def settle(self, request: Request, reply: Reply | None) -> None:
        """Put the server's count in the place of the reservation; None: it was not sent after all."""
        self._flying -= self._most(request)
        if reply is None:
            self.requests -= 1
        elif reply.status != "api_error":
            self.tokens_in += estimate(request) if reply.tokens_in is None else reply.tokens_in
            self.tokens_out += ANSWER_TOKENS if reply.tokens_out is None else reply.tokens_out

    def told(self) -> str:
        """Tokens and cost so far, for the line of progress."""
        tokens = f"{_short(self.tokens_in)} + {_short(self.tokens_out)} tokens"
        return tokens if self.usd is None else f"{tokens}, ${self.usd:,.2f}"

    def _most(self, request: Request) -> float:
        return 0.0 if self.prices is None else self.prices.cost(estimate(request), request.answer_limit)


def _short(tokens: int) -> str:
    return (
        f"{tokens:,}"
        if tokens < 10_000
        else f"{tokens / 1e3:,.0f}k"
        if tokens < 10_000_000
        else f"{tokens / 1e6:,.1f}M"
    )


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
