"""Documents against the code: generated parts are current, every command, macro and table is documented.

Generated parts stand between `<!-- generated: NAME -->` and `<!-- end -->`; `--write` renews them. `run: COMMAND`
parts of the README show the real output of a command on data/demo.duckdb: they are renewed by `--write` where the demo
atlas is there, and otherwise left (numbers differ in the last digits between machines, so a check does not compare
them; it checks that the command exists).

    python scripts/check_docs.py            exit code 1 and what to do when something is not true
    python scripts/check_docs.py --write
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import duckdb

from atlas.cli.main import cli as root_command
from atlas.server.app import make_app
from atlas.server.document import client_calls, endpoint_table
from atlas.server.settings import Settings
from atlas.store.schema import apply_schema
from atlas.store.sqlfiles import sql_files

ROOT = Path(__file__).parents[1]
DEMO = "data/demo.duckdb"
PART = re.compile(r"(<!-- (generated|run): (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
DOCUMENTS = ("README.md", "sql/README.md", "docs/http.md")


def commands(command: click.Command, prefix: str = "") -> dict[str, click.Command]:
    """Every command of the click tree by its full name."""
    if not isinstance(command, click.Group):
        return {prefix: command}
    context = click.Context(command)
    found: dict[str, click.Command] = {prefix: command} if prefix and command.invoke_without_command else {}
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None:
            found |= commands(inner, f"{prefix} {name}".strip())
    return found


def command_table() -> str:
    """Commands with the first line of their help."""
    lines = ["| command | what it does |", "|---|---|"]
    for name, command in sorted(commands(root_command).items()):
        lines.append(f"| `atlas {name}` | {(command.help or '').strip().splitlines()[0]} |")
    return "\n".join(lines) + "\n"


def table_reference() -> str:
    """Every table and column with its COMMENT, from sql/schema."""
    con = duckdb.connect()
    con.execute("ATTACH ':memory:' AS atlas; USE atlas")
    apply_schema(con, d_mlp=384)
    text = []
    for table, comment in con.execute("SELECT table_name, comment FROM duckdb_tables() ORDER BY table_name").fetchall():
        columns = con.execute(
            "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = $1 ORDER BY column_index",
            [table],
        ).fetchall()
        text.append(f"### `{table}`\n\n{comment}\n\n| column | type | meaning |\n|---|---|---|")
        text += [f"| {name} | {kind} | {meaning.replace('|', chr(92) + '|')} |" for name, kind, meaning in columns]
        text.append("")
    return "\n".join(text)


def http_document() -> dict[str, Any]:
    """The OpenAPI document; its routes do not depend on the atlas, so that an empty one does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.duckdb"
        con = duckdb.connect(str(file))
        apply_schema(con, d_mlp=8)
        con.close()
        return make_app(Settings(file))[1].openapi()


GENERATED: dict[str, Callable[[], str]] = {
    "endpoints": lambda: endpoint_table(http_document()),
    "calls": lambda: client_calls(http_document()),
    "commands": command_table,
    "tables": table_reference,
}


def shown_output(command: str) -> str:
    """A command and its output on the demo atlas, as a code block."""
    words = shlex.split(command)
    assert words[0] == "atlas", command
    out = subprocess.run(
        [sys.executable, "-m", *words, *(() if DEMO in words else ("--atlas", DEMO))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if out.returncode != 0:
        raise SystemExit(f"README: `{command}` fails: {out.stderr.strip()}")
    return f"```console\n$ {command}\n{out.stdout.rstrip()}\n```\n"


def renewed(text: str, *, run: bool) -> str:
    """A document with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        head, kind, name, body, end = match.groups()
        if kind == "generated":
            return head + GENERATED[name]() + end
        return head + (shown_output(name) if run else body) + end

    return PART.sub(part, text)


def faults(name: str, text: str) -> list[str]:
    """What is not true in one document."""
    found = []
    if renewed(text, run=False) != text:
        found.append(f"{name}: generated parts are out of date; run: python scripts/check_docs.py --write")
    known = commands(root_command)
    for match in PART.finditer(text):
        if match[2] == "run" and not any(match[3].startswith(f"atlas {command}") for command in known):
            found.append(f"{name}: no such command: {match[3]}")
    folder = (ROOT / name).parent
    found += [f"{name}: dead link {link}" for link in LINK.findall(text) if not (folder / link).exists()]
    return found


def undocumented(texts: str) -> list[str]:
    """Commands, macros and tables that no document names."""
    names = [f"atlas {name}" for name in commands(root_command)]
    names += [path.stem for path in sql_files("queries")]
    return [f"not documented anywhere: {name}" for name in names if name not in texts]


def main() -> None:
    """Check, or with --write renew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    if write:
        run = (ROOT / "data" / "demo.duckdb").exists()
        for name, text in texts.items():
            (ROOT / name).write_text(renewed(text, run=run), encoding="utf-8")
        return
    found = [fault for name, text in texts.items() for fault in faults(name, text)]
    found += undocumented("\n".join(texts.values()))
    print("\n".join(found) or "documents are true")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
