"""An answer -> stdout or a file, as a table, JSON, JSON lines, CSV or Parquet; notes go to stderr.

Tables show ids in their canonical form (L24/N5326) and only the columns of the answer's headline; the other formats
hold every column. Rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

if TYPE_CHECKING:
    from atlas.cli.options import View
    from atlas.query.answer import Answer

WIDEST = 60  # characters of one cell in a table
_PAIRS = {
    "layer": ("neuron", "neuron"),
    "src_layer": ("src_neuron", "source"),
    "tgt_layer": ("tgt_neuron", "target"),
    "layer_index": ("neuron_index", "neuron"),
}
Row = dict[str, Any]


class Tabular(Protocol):
    """What the writers need of an answer."""

    headline: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def rows(self) -> list[Row]:
        """All rows as dicts."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...


def show(answer: Answer, view: View) -> None:
    """Write the rows in the view's format, then the notes: warnings and how many rows the limit cut."""
    if view.format == "parquet":
        _parquet(answer, view)
    else:
        with _destination(view) as out:
            _WRITERS[view.format](answer, out)
    notes(answer)


def show_data(data: Any, text: str, view: View) -> None:
    """Write a nested structure: text for a table, else JSON; csv and parquet hold rows only."""
    from atlas.errors import InputError

    if view.format in ("csv", "parquet"):
        raise InputError(f"this answer is no single table; use --format json instead of {view.format}")
    with _destination(view) as out:
        if view.format == "table":
            out.write(text.rstrip("\n") + "\n")
        else:
            json.dump(data, out, ensure_ascii=False, default=str, indent=2 if view.format == "json" else None)
            out.write("\n")


def show_rows(rows: list[Row], form: str, *, headline: Sequence[str], limit: int | None, of: str) -> None:
    """Write rows that are no answer of an atlas to stdout, at most `limit`; how many it cut goes to stderr."""
    shown = rows[:limit]
    _WRITERS[form](_Rows(shown, tuple(headline)), sys.stdout)
    if len(shown) < len(rows):
        click.echo(f"note: {len(shown)} of {len(rows)} {of}; --limit 0 shows all", err=True)


def notes(answer: Answer, *, of: str = "") -> None:
    """Say on stderr what limits the answer; `of` names its table where several are shown."""
    for warning in answer.warnings:
        click.echo(f"note: {warning}", err=True)
    if answer.cut:
        click.echo(f"note: {len(answer)} of {answer.total} {of or 'rows'}; --limit 0 shows all", err=True)


def text_table(rows: list[Row], columns: list[str] | None = None) -> str:
    """Aligned plain text with a head line; '(no rows)' when empty."""
    head, cells = _cells(rows, columns)
    if not cells:
        return "(no rows)"
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    numeric = [all(_is_number(line[i]) for line in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [head, *cells]
    ]
    return "\n".join(lines)


def _table(answer: Tabular, out: TextIO) -> None:
    columns = [c for c in (answer.headline or answer.columns) if c in answer.columns]
    if out.isatty():
        _rich_table(answer.rows(), columns)
    else:
        out.write(text_table(answer.rows(), columns) + "\n")


def _rich_table(rows: list[Row], columns: list[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    head, cells = _cells(rows, columns)
    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for line in cells:
        table.add_row(*map(escape, line))
    Console().print(table if cells else "(no rows)")


def _json(answer: Tabular, out: TextIO) -> None:
    json.dump(answer.rows(), out, ensure_ascii=False, default=str, indent=2)
    out.write("\n")


def _jsonl(answer: Tabular, out: TextIO) -> None:
    out.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in answer.rows())


def _csv(answer: Tabular, out: TextIO) -> None:
    import csv

    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row] for row in answer)


def _parquet(answer: Answer, view: View) -> None:
    import pyarrow.parquet

    table = answer.arrow()
    with _writing(view):
        pyarrow.parquet.write_table(table, view.output)


@dataclass
class _Rows:
    """Rows of one shape that are held already."""

    held: list[Row]
    headline: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        return list(self.held[0]) if self.held else list(self.headline)

    def rows(self) -> list[Row]:
        return self.held

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (tuple(row.values()) for row in self.held)


_WRITERS = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}


@contextmanager
def _destination(view: View) -> Iterator[TextIO]:
    if view.output is None:
        yield sys.stdout
        return
    with _writing(view), view.output.open("w", encoding="utf-8", newline="") as out:
        yield out


@contextmanager
def _writing(view: View) -> Iterator[None]:
    from atlas.errors import InputError

    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {view.output}: {error.strerror or error}; give another -o FILE") from error


def _cells(rows: list[Row], columns: list[str] | None) -> tuple[list[str], list[list[str]]]:
    columns = list(rows[0]) if columns is None and rows else list(columns or [])
    merged = {_PAIRS[c][0]: c for c in columns if c in _PAIRS and _PAIRS[c][0] in columns}
    shown = [c for c in columns if c not in merged]
    head = [_PAIRS[c][1] if c in merged.values() else c for c in shown]
    return head, [[_cell(row, c, c in merged.values()) for c in shown] for row in rows]


def _cell(row: Row, column: str, is_id: bool) -> str:
    value = row[column]
    if is_id:
        return "" if value is None else f"L{value}/N{row[_PAIRS[column][0]]}"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    quoted = column == "token" or isinstance(value, list)
    text = (repr(value) if quoted else str(value)).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _is_number(cell: str) -> bool:
    return cell.lstrip("-+").replace(".", "", 1).replace("e-", "", 1).replace("e+", "", 1).isdigit() or cell in (
        "",
        "nan",
    )
