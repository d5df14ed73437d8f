"""The name of a model of texts -> an object that turns texts into unit vectors; no network, no key.

A package adds its own by an entry point of group "atlas.text_embedders" whose function returns a TextEmbedder; the
name of the model is kept in the atlas, so that a query is embedded by the model that embedded the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from atlas.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

DEFAULT = "all-MiniLM-L6-v2"
GROUP = "atlas.text_embedders"


class TextEmbedder(Protocol):
    """A model of texts; equal digests mean equal vectors up to rounding."""

    @property
    def name(self) -> str:
        """By this name load_embedder finds it again."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Float32 [texts, dimension], rows of length 1; a text beyond the model's window is cut."""


def load_embedder(name: str = DEFAULT) -> TextEmbedder:
    """The embedder of a name; InputError when nothing installed has it."""
    if name == DEFAULT:
        from atlas.models.minilm import load_minilm

        return load_minilm()
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join([DEFAULT, *sorted(found)])
        raise InputError(
            f"no embedder {name!r} is installed (there are {known}); install the package that has it, or embed the "
            f'labels anew: "atlas label embed ATLAS"'
        )
    embedder: TextEmbedder = found[name].load()()
    return embedder
