"""A TOML file -> Recipe: one model, one corpus, one atlas, and the parameters of every step.

Relative paths are relative to the recipe's own folder. Unknown sections, keys and wrong types are refused by name.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from atlas.errors import InputError

_Section = TypeVar("_Section")
_KINDS: dict[Any, str] = {tuple[str, ...]: "a list of strings"}


@dataclass(frozen=True)
class Activations:
    """What is kept of the forward pass over the corpus."""

    documents: int | None = None  # the first n documents; all by default
    context_length: int | None = None  # tokens; the model's own by default, at most 512
    batch_tokens: int = 4096
    exemplars: int = 20  # per neuron and sign
    strata: int = 4
    per_stratum: int = 5
    window: int = 8  # positions shown on either side of an exemplar
    fire_quantile: float = 0.98  # a strong firing is beyond this quantile of the calibration tokens
    calibration_tokens: int = 4096  # from all over the corpus; thresholds and histogram ranges
    tokens_kept: int = 200  # token statistics per neuron and sign
    shards: int = 1


@dataclass(frozen=True)
class Gradients:
    """The pass over calibration documents that pruning scores are made of."""

    documents: int = 500  # 0 = no gradient pass (pruning falls back to wifv, and says so)
    context_length: int | None = None
    batch_tokens: int = 2048


@dataclass(frozen=True)
class Wiring:
    """Weight-based connections."""

    top: int = 10  # per direction and sign


@dataclass(frozen=True)
class LogitLens:
    """Promoted and suppressed tokens."""

    top: int = 20


@dataclass(frozen=True)
class Relp:
    """Attribution graphs over a sample of documents."""

    graphs: int = 64  # 0 = none: edges come from the wiring
    tokens: int = 32  # length of a prompt: the first tokens of a document
    tau: float = 0.005
    top_k: int = 5
    metric: str = "top_k"  # the sum of the top_k logits; or "margin": the best minus the second-best logit
    max_nodes: int | None = 400  # of a graph, the strongest; what is cut is counted
    max_nodes_per_layer: int | None = None
    always_on: tuple[str, ...] = ()  # neurons ("L3/N100") that are strong everywhere and shall be no nodes
    shards: int = 1


@dataclass(frozen=True)
class Edges:
    """Statistics over the graphs."""

    min_count: int = 3


@dataclass(frozen=True)
class Cooccurrence:
    """Partners that share graphs."""

    top: int = 20


@dataclass(frozen=True)
class Cluster:
    """Infomap modules."""

    min_count: int = 3
    seed: int = 42
    trials: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that a build needs; `origin` is the file it was read from."""

    name: str
    model: str
    corpus: str
    atlas: str
    description: str = ""
    model_name: str = ""  # what the atlas calls the model; the folder's or hub's name by default
    dtype: str = "float32"
    activations: Activations = field(default_factory=Activations)
    gradients: Gradients = field(default_factory=Gradients)
    wiring: Wiring = field(default_factory=Wiring)
    logit_lens: LogitLens = field(default_factory=LogitLens)
    relp: Relp = field(default_factory=Relp)
    edges: Edges = field(default_factory=Edges)
    cooccurrence: Cooccurrence = field(default_factory=Cooccurrence)
    cluster: Cluster = field(default_factory=Cluster)
    origin: Path = Path("recipe.toml")

    def path(self, value: str) -> Path:
        """A path of the recipe, relative to the recipe's folder unless absolute."""
        return (self.origin.parent / value).resolve()

    def parameters(self) -> dict[str, object]:
        """Every parameter of every section as "section.key"."""
        sections = {f.name: getattr(self, f.name) for f in fields(self) if is_dataclass(getattr(self, f.name))}
        return {f"{name}.{key}": value for name, section in sections.items() for key, value in vars(section).items()}

    @property
    def atlas_path(self) -> Path:
        """Where the finished atlas goes."""
        return self.path(self.atlas)

    @property
    def build_folder(self) -> Path:
        """Where shards and the unfinished atlas live, beside the atlas (one file system: renames are atomic)."""
        return self.atlas_path.with_name(self.atlas_path.name + ".build")


def read_recipe(path: str | Path) -> Recipe:
    """Read and verify a recipe; InputError names the file, the key and what was expected."""
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no recipe at {file}; the ones that come with atlas are under data/recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}; mend that line") from error
    recipe = _section(Recipe, content, where=str(file), origin=file.resolve())
    _verify(recipe, str(file))
    return recipe


def _section(kind: type[_Section], content: Mapping[str, Any], *, where: str, **given: Any) -> _Section:
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind) if f.name not in given}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    missing = [name for name in ("name", "model", "corpus", "atlas") if name in known and name not in values]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing; a recipe needs name, model, corpus and atlas")
    return kind(**values, **given)


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be a section ([{where.rsplit(' ', 1)[-1]}]), found {value!r}")
        return _section(hint, value, where=where)  # type: ignore[arg-type]
    allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(hint) is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if type(value) not in allowed:
        names = " or ".join(_KINDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in allowed)
        raise InputError(f"{where} must be {names}, found {value!r}")
    return value


def _verify(recipe: Recipe, where: str) -> None:
    bounds = {
        "activations.exemplars": (recipe.activations.exemplars, 1),
        "activations.shards": (recipe.activations.shards, 1),
        "relp.shards": (recipe.relp.shards, 1),
        "relp.graphs": (recipe.relp.graphs, 0),
        "relp.tokens": (recipe.relp.tokens, 2),
        "relp.tau": (recipe.relp.tau, 0),
        "relp.top_k": (recipe.relp.top_k, 1),
        "relp.max_nodes": (recipe.relp.max_nodes, 1),
        "relp.max_nodes_per_layer": (recipe.relp.max_nodes_per_layer, 1),
        "gradients.documents": (recipe.gradients.documents, 0),
        "wiring.top": (recipe.wiring.top, 1),
        "edges.min_count": (recipe.edges.min_count, 1),
        "cluster.min_count": (recipe.cluster.min_count, 1),
    }
    for key, (value, least) in bounds.items():
        if value is not None and not least <= value < math.inf:  # also when it is not a number
            raise InputError(f"{where}: {key} is {value}, it must be at least {least}")
    if recipe.relp.metric not in ("top_k", "margin"):
        raise InputError(f'{where}: relp.metric is {recipe.relp.metric!r}, use "top_k" or "margin"')
    if not 0.5 < recipe.activations.fire_quantile < 1:
        raise InputError(f"{where}: activations.fire_quantile is {recipe.activations.fire_quantile}, use 0.5 to 1")
