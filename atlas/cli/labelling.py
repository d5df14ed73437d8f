"""`atlas label output | input | clusters`: ask an LLM for labels, one request a neuron or module, none paid twice."""

from __future__ import annotations

import click

from atlas.errors import InputError


@click.command(epilog="Example: atlas label output data/demo.duckdb --dry-run")
def output() -> None:
    """Label what neurons do when they fire, from the last layer to the first."""
    raise InputError("not in this version yet")


@click.command("input", epilog="Example: atlas label input data/demo.duckdb --dry-run")
def input_() -> None:
    """Label what makes neurons fire, from the first layer to the last."""
    raise InputError("not in this version yet")


@click.command(epilog="Example: atlas label clusters data/demo.duckdb --dry-run")
def clusters() -> None:
    """Name modules from the labels of their members."""
    raise InputError("not in this version yet")
