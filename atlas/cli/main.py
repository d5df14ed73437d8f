"""`atlas`: commands by name, imported only when called; failures become one line and an exit code."""

from __future__ import annotations

import os
import sys

import click

from atlas.cli.lazy import LazyGroup
from atlas.errors import AtlasError, InputError

# name: (module:function, one line of help). `atlas --help` imports none of them.
COMMANDS = {
    "neuron": ("atlas.cli.query:neuron", "One neuron: labels, tokens, texts, edges, wiring."),
    "search": ("atlas.cli.search:search", "Neurons by their labels: words, typos, patterns, meaning."),
    "tokens": ("atlas.cli.query:tokens", "Tokens that fire a neuron, module or selection."),
    "fires-on": ("atlas.cli.query:fires_on", "Neurons that fire on a token or a category of tokens."),
    "edges": ("atlas.cli.edges:edges", "Edges between two selections; edge stores: add, compact, project."),
    "ego": ("atlas.cli.circuits:ego", "The neighbourhood of a selection."),
    "common": ("atlas.cli.circuits:common", "Partners that several neurons share, with p against degree."),
    "similar": ("atlas.cli.circuits:similar", "The neurons most like a neuron, by edges, tokens or label."),
    "circuit": ("atlas.cli.circuit:circuit", "The neurons by which one end acts on another, token ends included."),
    "paths": ("atlas.cli.paths:paths", "The strongest paths from one selection to another."),
    "graphs": ("atlas.cli.paths:graphs", "The attribution graphs that contain a neuron."),
    "motifs": ("atlas.cli.paths:motifs", "Feed-forward loops and fans against a random null."),
    "cluster": ("atlas.cli.cluster:cluster", "Modules: find, compare, list, show."),
    "label": ("atlas.cli.label:label", "Labels: make them with an LLM or by rules, bring them in, score them."),
    "diff": ("atlas.cli.diff:diff", "What differs between two atlases."),
    "prune": ("atlas.cli.prune:prune", "Neurons that are safest to remove."),
    "weights": ("atlas.cli.weights:weights", "Size and sparsity of every weight matrix of a model."),
    "impact": ("atlas.cli.impact:impact", "What the model loses without some neurons, measured now."),
    "importance": ("atlas.cli.importance:importance", "What the model loses without each neuron of a layer."),
    "graph": ("atlas.cli.graph:graph", "The attribution graph of one prompt, measured now."),
    "report": ("atlas.cli.report:report", "Pages of neurons and modules that open offline."),
    "info": ("atlas.cli.inspect:info", "What an atlas is and holds."),
    "check": ("atlas.cli.inspect:check", "Check an atlas; exit code 1 when a check fails."),
    "sql": ("atlas.cli.inspect:sql", "Any SELECT over tables and macros."),
    "build": ("atlas.cli.build:build", "Build an atlas from a recipe."),
    "measure": ("atlas.cli.measure:measure", "Measure a model in shards, on many machines."),
    "submit": ("atlas.cli.submit:submit", "Submit a recipe to SLURM as job arrays."),
    "import": ("atlas.cli.foreign:import_", "Put files of earlier tools into an atlas."),
    "export": ("atlas.cli.export:export", "Write an atlas in the formats of other tools."),
    "serve": ("atlas.cli.serve:serve", "The same questions over HTTP, long work as jobs."),
    "token": ("atlas.cli.serve:token", "Bearer tokens of a server."),
    "artifacts": ("atlas.cli.artifacts:artifacts", "List what builds and exports made."),
}


@click.group(
    cls=LazyGroup, table=COMMANDS, epilog="Example: atlas --help; atlas search aspirin; atlas neuron L24/N5326"
)
@click.version_option(package_name="atlas-neurons", prog_name="atlas")
def cli() -> None:
    """Query a transformer's MLP neurons: what fires them, what they write to, which circuit they are in.

    The atlas file is --atlas FILE, else $ATLAS_FILE, else the only *.duckdb file under ./data.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the console script: exit code 0, 1 or 2, 130 after Ctrl-C."""
    sys.exit(_run(arguments))


def _invoke(arguments: list[str] | None) -> object:
    stdout = sys.stdout
    try:
        return cli.main(arguments, prog_name="atlas", standalone_mode=False)
    except SystemExit as stop:
        # click's own ways to leave when `head` has enough; the second is that of 8.5
        if isinstance(stop.__context__, BrokenPipeError) or sys.stdout is not stdout:
            return 0
        raise
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "atlas":
            raise
        raise InputError(
            f"this needs {error.name}, which is not installed; pip install 'atlas-neurons[all]'"
        ) from error


def _run(arguments: list[str] | None) -> int:
    try:
        result = _invoke(arguments)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except AtlasError as error:
        click.echo(f"atlas: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        given = sys.argv[1:] if arguments is None else arguments
        building = given[:2] == ["export", "neuronpedia"] or given[:1] in (
            ["build"],
            ["measure"],
            ["edges"],
            ["label"],
            ["impact"],
        )
        click.echo(f"atlas: interrupted{'; run the same command again to go on' if building else ''}", err=True)
        return 130
    except BrokenPipeError:  # the reader, for example `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    main()
