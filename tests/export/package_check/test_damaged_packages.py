"""Random damage to every layout: always a report or one clear refusal, never a crash."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from planted_packages import LAYOUTS, lines, packed, write

from atlas import InputError
from atlas.export.package_check import check_package

VALUES = (None, True, 0, -1, 1.5, 1e308, 2**40, 10**400, "", "x", "\0", "\ud800", [], [None], [1, "a"], [[1]], {}, [{}],
          {"a": 1}, float("nan"), float("inf"))  # fmt: skip


def containers(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if inside else []), *[one for part in inside for one in containers(part)]]


def changed(dice: random.Random, value: Any) -> Any:
    """A value somewhere within replaced, removed or added."""
    found = containers(value)
    if not found or dice.random() < 0.03:
        return dice.choice(VALUES)
    chosen = dice.choice(found)
    key = dice.choice(list(chosen) if isinstance(chosen, dict) else range(len(chosen)))
    if dice.random() < 0.2:
        del chosen[key]
    elif dice.random() < 0.2 and isinstance(chosen, dict):
        chosen[dice.choice(["x", "vector", "id", "index", "nodes", "sha256", "files", "/~"])] = dice.choice(VALUES)
    else:
        chosen[key] = dice.choice(VALUES)
    return value


def damaged(dice: random.Random, name: str, content: bytes) -> bytes:
    """A value changed, bytes changed, or the end cut off."""
    kind = dice.random()
    if kind < 0.6 and name.endswith((".json", ".jsonl", ".gz")):
        text = gzip.decompress(content) if name.endswith(".gz") else content
        if name.endswith(".json"):
            return json.dumps(changed(dice, json.loads(text)), indent=1).encode()
        rows = [json.loads(line) for line in text.splitlines()]
        place = dice.randrange(len(rows))
        rows[place] = changed(dice, rows[place])
        return packed(lines(*rows)) if name.endswith(".gz") else lines(*rows)
    if kind < 0.8:
        raw = bytearray(content)
        for _ in range(dice.randint(1, 4)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        return bytes(raw)
    return content[: dice.randrange(len(content))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_reported(tmp_path: Path, layout: str) -> None:
    dice = random.Random(layout)
    noticed = 0
    for i in range(60):
        files = LAYOUTS[layout]()
        for name in dice.sample(sorted(files), dice.choice([1, 1, 2])):
            files[name] = damaged(dice, name, files[name])
        target = write(files, tmp_path / (f"{i}.zip" if i % 3 == 0 else str(i)))
        if i % 6 == 0:
            raw = bytearray(target.read_bytes())
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            target.write_bytes(raw)
        try:
            report = check_package(target, layout=layout if i % 2 else None)
            json.dumps(report.to_dict())
            noticed += bool(report.found)
        except InputError as error:
            assert "\n" not in str(error)
            noticed += 1
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert noticed > 30
