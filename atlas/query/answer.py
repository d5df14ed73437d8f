"""A question with bound values -> a lazy answer that can show its SQL and says what its limit cut.

Nothing runs until rows are asked for; each run takes its own cursor, so answers may be read from several threads.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from atlas.errors import AtlasError, InputError
from atlas.store.connection import explain_failure

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import polars
    import pyarrow

Row = tuple[Any, ...]


class Source(Protocol):
    """Where an answer gets its cursors; Atlas is one."""

    @property
    def name(self) -> str:
        """File name for messages."""

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a new cursor for one thread."""


class Answer:
    """Rows of one SQL statement, fetched when first needed.

    `headline` names the columns that a narrow table shows; `warnings` say what limits the answer's meaning.
    """

    def __init__(
        self,
        source: Source,
        statement: str,
        parameters: Mapping[str, object] | None = None,
        *,
        warnings: tuple[str, ...] = (),
        headline: tuple[str, ...] = (),
    ) -> None:
        self._source = source
        self._statement = statement
        self._parameters = dict(parameters or {})
        self._rows: list[Row] | None = None
        self._columns: list[str] | None = None
        self._total: int | None = None
        self.warnings = warnings
        self.headline = headline
        self.counted = True  # False: total is what there is, since counting the rest takes as long as asking for it

    def fetchall(self) -> list[Row]:
        """All rows as tuples, in the macro's order."""
        if self._rows is None:
            cursor = self.run()
            try:
                self._rows = cursor.fetchall()
            except duckdb.Error as error:
                raise refuse(error, self._source.name) from error
        return self._rows

    def first(self, most: int) -> tuple[list[Row], int | None]:
        """At most so many rows, and how many there are without this and the limit; None where that is not counted."""
        if self._rows is None:
            try:
                rows = self.run().fetchmany(most + 1)
            except duckdb.Error as error:
                raise refuse(error, self._source.name) from error
            if len(rows) > most:
                return rows[:most], self._count() if self.counted else None
            self._rows = rows
        return self._rows[:most], self.total

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor for `run`, which another thread may interrupt."""
        return self._source.cursor()

    def run(self, cursor: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
        """Start the statement: a cursor of its own to fetch rows from in parts, which may raise duckdb.Error."""
        cursor = self._run(self._statement, cursor=cursor)
        self._columns = [column[0] for column in cursor.description or ()]
        return cursor

    def reader(self, cursor: duckdb.DuckDBPyConnection, rows: int) -> pyarrow.RecordBatchReader:
        """Start the statement on a cursor of `cursor`: Arrow batches of so many rows, made as they are read."""
        try:
            return cursor.sql(self._statement, params=self._parameters).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise refuse(error, self._source.name) from error

    @property
    def source_name(self) -> str:
        """What the rows are of, for messages."""
        return self._source.name

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.fetchall()]

    def pl(self) -> polars.DataFrame:
        """A polars data frame."""
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def df(self) -> pandas.DataFrame:
        """A pandas data frame; InputError when pandas is not installed."""
        if importlib.util.find_spec("pandas") is None:  # duckdb's own error names no next step
            raise InputError("df() needs pandas, which is not installed; use pl(), or pip install pandas")
        return self._relation().df()

    def arrow(self) -> pyarrow.Table:
        """An Arrow table."""
        return self._relation().to_arrow_table()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        if self._columns is None:
            self.fetchall()
        return self._columns or []

    @property
    def total(self) -> int:
        """Rows there would be without the limit."""
        if self._total is None:
            self._total = len(self) if self._whole or not self.counted else self._count()
        return self._total

    @property
    def cut(self) -> int:
        """Rows that the limit left out."""
        return self.total - len(self)

    @property
    def sql(self) -> str:
        """The statement with its values in place: it runs in any DuckDB shell on the atlas file."""
        values = {f"${name}": literal(value) for name, value in self._parameters.items()}
        return re.sub(r"\$\w+", lambda match: values.get(match[0], match[0]), self._statement)

    @property
    def statement(self) -> str:
        """The statement with $names in place of values."""
        return self._statement

    def explain(self) -> str:
        """DuckDB's plan."""
        return str(self._run(f"EXPLAIN {self._statement}").fetchall()[0][1])

    def __len__(self) -> int:
        return len(self.fetchall())

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchall())

    def __repr__(self) -> str:
        return f"<Answer: {self.sql[:200]}>"

    @property
    def _whole(self) -> bool:
        limit = self._parameters.get("max_rows")
        if self._parameters.get("skip_rows"):
            return False
        return not isinstance(limit, int) or len(self) < limit

    def _count(self) -> int:
        unlimited = dict(self._parameters)
        unlimited |= {name: value for name, value in (("max_rows", None), ("skip_rows", 0)) if name in unlimited}
        return int(self._run(f"SELECT count(*) FROM ({self._statement})", unlimited).fetchall()[0][0])

    def _relation(self) -> duckdb.DuckDBPyRelation:
        try:
            return self._source.cursor().sql(self._statement, params=self._parameters)
        except duckdb.Error as error:
            raise refuse(error, self._source.name) from error

    def _run(
        self,
        statement: str,
        parameters: Mapping[str, object] | None = None,
        cursor: duckdb.DuckDBPyConnection | None = None,
    ) -> duckdb.DuckDBPyConnection:
        try:
            return (cursor or self._source.cursor()).execute(statement, dict(parameters or self._parameters))
        except duckdb.Error as error:
            raise refuse(error, self._source.name) from error


def macro_call(name: str, parameters: Mapping[str, object]) -> str:
    """The statement that calls a macro with every value bound by name."""
    return f"FROM {name}({', '.join(f'{key} := ${key}' for key in parameters)})"


def literal(value: object) -> str:
    """A Python value as SQL text.

    >>> literal(["it's", None, 3])
    "['it''s', NULL, 3]"
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(literal(item) for item in value)}]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def refuse(error: duckdb.Error, name: str) -> AtlasError:
    """DuckDB's error -> ours: what a person typed apart from what is wrong with the file."""
    text = " ".join(re.split(r"\n\s*LINE \d+:", str(error))[0].split())
    if "read-only mode" in text:
        return InputError(f"the atlas is open read-only, nothing was changed ({text}); queries can only read")
    typed = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException)
    if isinstance(error, (*typed, duckdb.InvalidInputException, duckdb.OutOfRangeException)):
        return InputError(f"{text}; correct the query (atlas sql 'SHOW TABLES' and 'DESCRIBE neurons' show the names)")
    return explain_failure(error, name)
