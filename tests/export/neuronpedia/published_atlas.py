"""An atlas with everything that a package can trip over, and readers of packages that share no code with the export."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import Row, Tables, random_tables

LAYERS, D_MLP = 3, 150
SIGNS = {"+": (1,), "-": (-1,), "both": (1, -1)}
VOCAB = [
    "<s>",
    " dog",
    "cat",
    "",
    "nul\x00in",
    "an \\u0000 escape",
    " é",
    "\n",
    "😀",
    '"',
    "\\",
    "\u2028",
    "\\x84",
    " end",
]
LACKING = 99  # a token of no text
PLAIN, DEAD, UNMEASURED, LONG, NAN = (0, 0), (0, 1), (1, 0), (1, 3), (2, 2)


def published_tables(seed: int = 0) -> Tables:
    """450 neurons, exemplars of both signs for most; DEAD has none, UNMEASURED no statistics, NAN no numbers."""
    dice = random.Random(seed)
    tables = random_tables(seed, LAYERS, D_MLP)
    tables["vocab"] = [{"token_id": i, "token": text, "count": 10 + i} for i, text in enumerate(VOCAB)]
    tables["token_stats"] = [row | {"token_id": row["token_id"] % len(VOCAB)} for row in tables["token_stats"]]
    seen = {(r["layer"], r["neuron"], r["polarity"], r["token_id"]): r for r in tables["token_stats"]}
    tables["token_stats"] = list(seen.values())
    tables["contexts"] = [_context(dice, one, 1200 if one == 7 else 40) for one in range(20)]
    keys = [(layer, n) for layer in range(LAYERS) for n in range(D_MLP)]
    tables["exemplars"] = [row for key in keys if key != DEAD for row in _exemplars(dice, key)]
    tables["logit_lens"] = [
        {"layer": k[0], "neuron": k[1], "polarity": sign, "rank": r, "token_id": dice.randrange(len(VOCAB)),
         "value": f32(sign * (30 - r) / 7)}
        for k in keys if k[1] % 5 for sign in (1, -1) for r in range(25)
    ]  # fmt: skip
    tables["neuron_stats"] = [
        _drawn_stats(dice, row) for row in tables["neuron_stats"] if (row["layer"], row["neuron"]) != UNMEASURED
    ]
    tables["labels"] += [_second(dice, row) for row in tables["labels"]]
    tables["labels"].append(_second(dice, tables["labels"][0]) | {
        "layer": LONG[0], "neuron": LONG[1], "label": "word 😀 " * 100, "polarity": 1, "status": "ok",
    })  # fmt: skip
    tables["labels"].append(tables["labels"][-1] | {"label": "a NUL \x00 and \\u0000", "score": 0.75})
    return tables


def f32(value: float) -> float:
    """The double of the nearest float32, as the store keeps it."""
    return float(np.float32(value))


def _context(dice: random.Random, one: int, size: int) -> Row:
    ids = [dice.choice([*range(len(VOCAB)), LACKING]) for _ in range(size)]
    return {"context_id": one, "corpus": "toy\x00corpus" if one == 3 else "toy", "document": one, "offset": 0,
            "token_ids": ids}  # fmt: skip


def _exemplars(dice: random.Random, key: tuple[int, int]) -> list[Row]:
    made = []
    for sign in (1, -1):
        for rank in range(6):
            context = 7 if key == PLAIN and rank == 0 else dice.randrange(20)
            size = 1200 if context == 7 else 40
            position = 1150 if key == PLAIN and rank == 0 else dice.randrange(size)
            start = max(0, position - (1100 if key == PLAIN else 5))
            values = [f32(dice.gauss(0, 0.1)) for _ in range(start, min(size, position + 6))]
            peak = f32(sign * (3 - rank / 4))
            values[position - start] = peak
            if key == NAN:
                values[0] = float("nan")
            made.append({
                "layer": key[0], "neuron": key[1], "polarity": sign, "stratum": 0 if rank < 5 else 1,
                "rank": rank if rank < 5 else 0, "activation": peak, "context_id": 77 if key == LONG and rank == 3
                else context, "position": position, "window_start": start, "window": values,
            })  # fmt: skip
    if key != NAN:
        made[2] |= {"window": None, "window_start": None}  # the peak alone is known
    return made


def _drawn_stats(dice: random.Random, row: Row) -> Row:
    counts = [dice.randrange(50) for _ in range(66)]
    counts[0], counts[65] = dice.choice([0, 3]), dice.choice([0, 2])
    total = sum(counts)
    active = dice.randrange(20, total // 2)
    return row | {
        "hist": counts, "n_tokens": total, "n_active": active, "n_fired_pos": min(11, active), "n_fired_neg": 9,
        "hist_lo": f32(-2.0), "hist_hi": f32(2.0), "min": f32(-3.0), "max": f32(3.0), "s1": -1.5, "abs_sum": 40.25,
        "fire_pos": None if row["neuron"] % 7 == 0 else f32(2.3),
    }  # fmt: skip


def _second(dice: random.Random, row: Row) -> Row:
    return row | {
        "pass": "input", "polarity": dice.choice([1, -1]), "source": "llm", "model": "m", "status": dice.choice(
            ["ok", "ok", "refused"]), "score": dice.choice([None, 0.5]), "created": "2026-01-01",
    }  # fmt: skip


# -- packages as anyone would read them ----------------------------------------------------------------------------


def contents(package: Path) -> dict[str, bytes]:
    """Bytes of every file by its path inside."""
    if package.is_file():
        with zipfile.ZipFile(package) as packed:
            return {name: packed.read(name) for name in packed.namelist()}
    return {p.relative_to(package).as_posix(): p.read_bytes() for p in package.rglob("*") if p.is_file()}


def rows(package: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of all batches of a kind of the bulk layout, in the order of their numbers."""
    found = []
    for name, content in sorted(contents(package).items(), key=lambda item: (len(item[0]), item[0])):
        if f"/{kind}/" in name:
            text = gzip.decompress(content).decode("utf-8")
            assert text.endswith("\n") and "\n\n" not in text
            found += [json.loads(line, parse_constant=_refuse) for line in text.split("\n")[:-1]]
    return found


def document(content: bytes) -> Any:
    """A JSON document without NaN."""
    return json.load(io.BytesIO(content), parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")
