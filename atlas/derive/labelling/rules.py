"""Logit lens, token statistics and edges -> labels without an LLM (`source` = 'rule:...').

The rules are SQL (sql/ingest/rule_*.sql); each label's description carries its evidence.
"""

from __future__ import annotations

import duckdb

from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query

# Order matters: the edge rule names its targets by their input labels.
RULES = ("rule_input", "rule_output", "rule_edges")


def label_by_rules(con: duckdb.DuckDBPyConnection) -> int:
    """Replace all rule labels; labels of other sources stay."""
    con.execute("DELETE FROM labels WHERE source LIKE 'rule:%'")
    return sum(append_from_query(con, "labels", sql_text("ingest", rule)) for rule in RULES)
