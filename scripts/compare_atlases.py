"""Two atlases of one model -> table by table, which rows only one of them has and how far the numbers are apart.

    python scripts/compare_atlases.py OLD.duckdb NEW.duckdb [--tolerance 1e-6]

Rows are matched by all columns that are neither floats nor lists of floats. A difference is relative to the largest
absolute value of the column (1e-6: the same to six digits of the column's scale). Exit code 1 when rows or numbers
differ by more than the tolerance. Left out are notes of how an atlas was built (metadata, ingests, eval_id), ranks of
edges_top (edges of equal strength change places) and completeness_residual (it is rounding itself).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb

SKIPPED = {"metadata", "ingests"}
LEFT_OUT = {("pruning", "eval_id"), ("edges_top", "rank"), ("graphs", "completeness_residual")}
FLOATS = ("FLOAT", "DOUBLE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    args = parser.parse_args()
    con = duckdb.connect()
    for name in ("old", "new"):
        con.execute(f"ATTACH '{str(getattr(args, name)).replace(chr(39), chr(39) * 2)}' AS {name} (READ_ONLY)")
    good = [compare(con, table, args.tolerance) for table in shared_tables(con) if table not in SKIPPED]
    return 0 if all(good) else 1


def shared_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    rows = con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name IN ('old', 'new') "
        "GROUP BY table_name HAVING count(*) = 2 ORDER BY table_name"
    )
    return [name for (name,) in rows.fetchall()]


def compare(con: duckdb.DuckDBPyConnection, table: str, tolerance: float) -> bool:
    """Print one table's line; whether it agrees."""
    keys, numbers = columns(con, table)
    match = " AND ".join(f"o.{key} IS NOT DISTINCT FROM n.{key}" for key in [*keys, "_copy"])
    parts = [f"max(abs(coalesce(o.{c}, 0) - coalesce(n.{c}, 0))) / greatest(max(abs(o.{c})), 1e-300)" for c in numbers]
    order = ", ".join(numbers) or "1"

    def side(name: str) -> str:  # equal keys are numbered in the order of their numbers
        by = f"PARTITION BY {', '.join(keys)} ORDER BY {order}" if keys else f"ORDER BY {order}"
        chosen = ", ".join([*keys, *numbers])
        return f"(SELECT {chosen}, row_number() OVER ({by}) AS _copy, true AS _here FROM {name}.{table})"

    found = con.execute(
        f"SELECT count(*) FILTER (n._here IS NULL), count(*) FILTER (o._here IS NULL), count(*), "
        f"{', '.join(parts) or 'NULL'} FROM {side('old')} o FULL JOIN {side('new')} n ON {match}"
    ).fetchall()[0]
    worst = {c: d for c, d in zip(numbers, found[3:], strict=False) if d is not None and d > 0}
    named = max(worst, key=lambda c: worst[c], default="")
    print(
        f"{table:16} {found[2]:9,} rows, only old {found[0]:6,}, only new {found[1]:6,}, "
        f"largest difference {worst.get(named, 0.0):.1e} {named}"
    )
    return not found[0] and not found[1] and worst.get(named, 0.0) <= tolerance


def columns(con: duckdb.DuckDBPyConnection, table: str) -> tuple[list[str], list[str]]:
    """Columns that both have: those that name a row, and floats. Lists of floats are not compared."""
    rows = con.execute(
        "SELECT column_name, min(data_type) FROM duckdb_columns() WHERE table_name = $1 "
        "AND database_name IN ('old', 'new') GROUP BY column_name HAVING count(*) = 2 ORDER BY min(column_index)",
        [table],
    ).fetchall()
    rows = [(name, kind) for name, kind in rows if (table, name) not in LEFT_OUT]
    keys = [f'"{name}"' for name, kind in rows if not kind.startswith(FLOATS) and "TIMESTAMP" not in kind]
    return keys, [f'"{name}"' for name, kind in rows if kind in FLOATS]


if __name__ == "__main__":
    sys.exit(main())
