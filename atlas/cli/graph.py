"""`atlas graph PROMPT`: one attribution graph, measured now, as rows and as the JSON file of graph tools."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.build.prompt_graph import PromptGraph

_DTYPES = ("float64", "float32", "bfloat16", "float16")
_HEADLINE = ("layer", "neuron", "position", "token", "activation", "relevance", "share", "direct", "explained", "label")


@click.command(epilog='Example: atlas graph "my knee hurts , I need some" --model data/demo/model')
@click.argument("prompt")
@click.option("--model", required=True, metavar="FOLDER", help="Hugging Face folder, or a hub name.")
@click.option("--target", "targets", multiple=True, metavar="TEXT", help="A token whose logit is explained; repeat.")
@click.option("--against", multiple=True, metavar="TEXT", help="A token whose logit is subtracted; repeat.")
@click.option("--position", type=int, metavar="N", help="Where the targets are predicted; the last token by default.")
@click.option("--top-k", type=click.IntRange(min=1), metavar="K", help="Without --target: the K highest logits.  [5]")
@click.option("--tau", type=click.FloatRange(min=0), default=0.005, show_default=True, help="Least |relevance|/metric.")
@click.option("--max-nodes", type=click.IntRange(min=1), default=400, show_default=True, help="The strongest N nodes.")
@click.option("--dtype", type=click.Choice(_DTYPES), default="float32", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas of the model: labels.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Also write the graph as JSON.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table", show_default=True
)
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="ROWS", help="0 for all.")
def graph(
    prompt: str, *, model: str, dtype: str, device: str, file: Path | None, output: Path | None, **more: Any
) -> None:
    """Measure the attribution graph of PROMPT and list its strongest neurons; - reads the prompt from stdin.

    The metric is the sum of the --target logits minus those --against, or of the highest logits. relevance is a
    neuron's part of it, direct the part that passes no later MLP, explained the share of its relevance that comes
    from other listed neurons and from tokens. What was measured, and how well it adds up, stands on stderr. With -o,
    the graph is written as Neuronpedia and circuit-tracer read it (see "atlas export graph-json").
    """
    import atlas
    from atlas.build.prompt_graph import Question, prompt_graph
    from atlas.cli.render import show_rows
    from atlas.models.adapter import load_model

    form, limit = more.pop("form"), more.pop("limit")
    question = Question(sys.stdin.read() if prompt == "-" else prompt, **more)
    with atlas.open(file) if file else nullcontext() as labels:
        found = prompt_graph(load_model(model, dtype=dtype, device=device), question, atlas=labels, output=output)
    click.echo(summary(found, len(question.against)), err=True)
    for path, size in found.files:
        click.echo(f"wrote     {path}  {size:,} bytes", err=True)
    show_rows(found.nodes, form, headline=_HEADLINE, limit=limit or None, of="nodes")


def summary(found: PromptGraph, against: int) -> str:
    """What was measured, and how much of it the graph holds; the last `against` targets are subtracted."""
    row = found.row
    signs = "+" * (len(row["targets"]) - against) + "-" * against
    named = " ".join(sign + repr(found.tokens[token]) for sign, token in zip(signs, row["targets"], strict=True))
    share = "unknown" if row["explained"] is None else f"{row['explained']:.1%}"
    return "\n".join(
        [
            f"tokens    {' '.join(f'{at}:{found.tokens[token]!r}' for at, token in enumerate(row['token_ids']))}",
            f"metric    {row['metric']} = {row['metric_value']:.5g} after token {row['target_position']}; "
            f"targets {named}",
            f"graph     {row['n_nodes']} nodes, {row['n_edges']} edges; {row['nodes_dropped']} nodes dropped by "
            f"--max-nodes, of |relevance| {row['relevance_dropped']:.4g} in all",
            f"explained {share} of the relevance, by listed neurons and tokens; completeness residual "
            f"{row['completeness_residual']:.1e}",
        ]
    )
