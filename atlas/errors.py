"""What can go wrong -> one clear line that ends with the next step, and an exit code.

Only the faces (CLI, HTTP) catch these; everything below raises.
"""

from __future__ import annotations


class AtlasError(Exception):
    """A failure that a person can act on; the message says what was expected, found, and what to do next."""

    exit_code = 1


class InputError(AtlasError):
    """What the person gave is wrong: an id, a file, a recipe, an option."""

    exit_code = 2


class StoreError(AtlasError):
    """An atlas file cannot be used as asked: locked, missing a table, another version, damaged."""


class ModelError(AtlasError):
    """A model cannot be measured: missing or corrupt weights, an unsupported architecture, not-a-number values."""


class ShardError(AtlasError):
    """A measured shard is missing, incomplete or belongs to another model or recipe."""


class ResourceError(AtlasError):
    """Memory or disk do not suffice; the message carries both numbers."""


class ServiceError(AtlasError):
    """An endpoint that is asked over the network does not serve: unreachable, out of money, failing all the time."""
