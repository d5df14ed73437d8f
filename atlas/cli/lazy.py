"""A table of commands -> a group that imports a command only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from atlas.errors import InputError


class LazyGroup(click.Group):
    """A group made from {name: (module:function, one line of help)}; its help imports none of them."""

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **given: Any) -> None:
        super().__init__(*arguments, **given)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command; None for an unknown name."""
        if cmd_name not in self._table:
            return None
        module, _, function = self._table[cmd_name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            needs = f"{ctx.command_path} {cmd_name} needs {error.name}, which is not installed"
            raise InputError(f"{needs}; pip install 'atlas-neurons[all]'") from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the table alone."""
        if not self._table:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])
