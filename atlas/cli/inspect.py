"""What an atlas is, whether it is sound, and any SELECT."""

from __future__ import annotations

import sys
from typing import Any

import click

from atlas.cli.options import View, view_options


@click.command(epilog="Example: atlas info --format json")
@click.option("--hash", "with_hash", is_flag=True, help="Also the content hash (reads the whole file).")
@view_options
def info(view: View, with_hash: bool) -> None:
    """What an atlas is and holds: model, sizes, rows, edge method, quality of its graphs, ingests."""
    with view.open() as a:
        facts = a.info()
        if with_hash:
            facts["hash"] = a.hash()
        view.show_data(facts, info_text(facts))
        for note in a.truncation():
            click.echo(f"note: {note}", err=True)


@click.command(epilog="Example: atlas check --atlas data/demo.duckdb")
@view_options
def check(view: View) -> None:
    """Run every check of sql/checks; exit code 1 when one fails."""
    from atlas.store.sqlfiles import sql_files

    with view.open() as a:
        results = a.check()
    rows = [
        {"check": r.name, "healthy": r.healthy, "bad_rows": r.bad_rows, "meaning": r.meaning, "sample": r.sample}
        for r in results
    ]
    view.show_data(rows, "\n".join(map(_verdict, rows)))
    bad = sum(not r.healthy for r in results)
    left = len(sql_files("checks")) - len(results)
    older = f"; {left} of how tables lie on disk left out, for the file is of an older schema" if left else ""
    click.echo(f"{len(results) - bad} of {len(results)} checks passed{older}", err=True)
    if bad:
        raise SystemExit(1)


@click.command(epilog="""Example: atlas sql "FROM label_search('aspirin')" """)
@click.argument("text")
@click.option("--explain", "plan", is_flag=True, help="Show DuckDB's plan instead of rows.")
@view_options
def sql(view: View, text: str, plan: bool) -> None:
    """Any SELECT over the tables and macros, read-only; - reads it from stdin."""
    with view.open() as a:
        answer = a.sql(sys.stdin.read() if text == "-" else text)
        if view.rows:
            answer = a.sql(f"SELECT * FROM ({answer.statement}\n) LIMIT $max_rows", {"max_rows": view.rows})
        if plan:
            click.echo(answer.explain())
        else:
            view.show(answer)


def info_text(facts: dict[str, Any]) -> str:
    """The facts as text: identity, sizes, quality of the graphs, rows, ingests."""
    from atlas.cli.render import text_table

    meta = facts["metadata"]
    units = "features" if meta.get("edge_unit_type") == "transcoder_feature" else "neurons"
    lines = [
        f"{facts['file']}  {facts['bytes'] / 1e6:.1f} MB, schema {facts['schema']}",
        f"model     {facts['model'] or 'unknown'} (revision {facts['revision'] or 'unknown'})",
        f"{units:<10}{facts['neurons']} = {facts['layers']} layers x {facts['neurons_per_layer']}, "
        f"{facts['labelled']} labelled, {facts['in_modules']} in modules",
        f"edges     {facts['tables'].get('edges', 0)}, method {facts['edge_method'] or 'unknown'}, "
        f"truncation {facts['edge_truncation']}",
        *_cut_lines(meta),
        *_graph_lines(facts["graphs"]),
    ]
    if "hash" in facts:
        lines.append(f"hash      {facts['hash']}")
    lines += ["", text_table([{"table": t, "rows": n} for t, n in facts["tables"].items()])]
    if facts["missing_tables"]:
        lines += ["", f"without   {', '.join(facts['missing_tables'])}"]
    if facts["ingests"]:
        lines += ["", text_table(facts["ingests"])]
    return "\n".join(lines)


def _cut_lines(meta: dict[str, str]) -> list[str]:
    """What the cut left out, where the atlas took its edges from a store."""
    if not int(meta.get("edges_cut") or 0):
        return []
    cut, observations = int(meta["edges_cut"]), int(meta["edge_observations_cut"])
    return [f"          {cut} with fewer than {meta['min_edge_count']} observations ({observations} in all) left out"]


def _graph_lines(graphs: dict[str, Any]) -> list[str]:
    """Number and quality of the graphs; graphs of other tools do not say how much they explain."""
    if not graphs["graphs"]:
        return []
    if graphs["explained_median"] is None and graphs["residual_median"] is None:
        return [f"graphs    {graphs['graphs']}, how much they explain is not known"]
    return [
        f"graphs    {graphs['graphs']}, relevance explained by listed neurons: median "
        f"{_share(graphs['explained_neurons_median'])} (lowest {_share(graphs['explained_neurons_min'])}), "
        f"with token embeddings {_share(graphs['explained_median'])} (lowest {_share(graphs['explained_min'])})",
        f"          completeness residual median {_small(graphs['residual_median'])}, "
        f"largest {_small(graphs['residual_max'])}",
    ]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _small(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1e}"


def _verdict(row: dict[str, Any]) -> str:
    if row["healthy"]:
        return f"ok    {row['check']}"
    return f"FAIL  {row['check']}: {row['bad_rows']} bad rows, for example {row['sample'][0]}\n      {row['meaning']}"
