"""A TOML file -> Recipe: one model, one corpus, one atlas, and the parameters of every step.

A recipe without model and corpus is an assembly: it states the sizes of a model that is not at hand and names what
others made of it (an edge store, label files, cluster assignments); nothing is measured.
Relative paths are relative to the recipe's own folder. Unknown sections, keys and wrong types are refused by name.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from atlas.errors import InputError

_Section = TypeVar("_Section")
_NEEDED = "a recipe needs name, atlas, and model and corpus (or, to assemble what is there, [sizes])"
# sections that are about a model at hand
_MEASURED = ("activations", "gradients", "wiring", "logit_lens", "read_tokens", "relp")
_PLACES = ("edges.store", "labels.files", "cluster.assignments")
_KINDS: dict[Any, str] = {tuple[str, ...]: "a list of strings"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model of an assembly; beside a model they must be the model's."""

    layers: int | None = None
    d_mlp: int | None = None  # neurons of a layer


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
class ReadTokens:
    """Tokens that the input rows read by weights alone."""

    top: int = 10  # of each of three lists: gate, up, up negative; 0 = none


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
    """Statistics over the graphs: those of `relp`, or those of an edge store that is there already."""

    min_count: int = 3
    store: str | None = None  # folder made by "atlas edges add"; then no graph is measured
    neuron_graphs: str = "auto"  # which graphs a neuron is in: "table", "store" (a file there), or "auto" (by size)


@dataclass(frozen=True)
class Labels:
    """Labels that are there already, beside those by rule."""

    files: tuple[str, ...] = ()  # JSON, one object a line
    strict: bool = False  # a line that cannot be used stops the build; by default it is counted
    precedence: tuple[str, ...] = ()  # whose label is shown, best first: kinds, sources ("import:FILE"), runs


@dataclass(frozen=True)
class Cooccurrence:
    """Partners that share graphs."""

    top: int = 20


@dataclass(frozen=True)
class Cluster:
    """Modules found in the edges, or modules that are there already."""

    method: str = "infomap"  # or leiden, louvain-hierarchical, kmeans, nmf, spectral
    min_count: int = 3
    seed: int = 42
    trials: int = 1  # of infomap, leiden, louvain-hierarchical
    weight: str | None = None  # SQL over the columns of edges; mean_abs_weight^2 by default
    resolution: float | None = None  # of leiden, louvain-hierarchical
    max_size: int | None = None  # of leiden: a larger module is split again
    k: int | None = None  # modules of kmeans, nmf, spectral
    profile: str | None = None  # what those compare: "edges" or "activations"
    assignments: str | None = None  # JSON {"assignments": {"L24/5326": {"path": "158.4"}}}; then no method is run
    strict: bool = False  # as in labels

    def options(self) -> dict[str, object]:
        """What a method is given; trials only where more than one is asked for, as not every method has them."""
        given = {key: value for key, value in vars(self).items() if key not in ("method", "assignments", "strict")}
        return {key: value for key, value in given.items() if value is not None and (key, value) != ("trials", 1)}


@dataclass(frozen=True)
class Recipe:
    """Everything that a build needs; `origin` is the file it was read from."""

    name: str
    atlas: str
    model: str = ""
    corpus: str = ""
    description: str = ""
    model_name: str = ""  # what the atlas calls the model; the folder's or hub's name by default
    dtype: str = "float32"
    sizes: Sizes = field(default_factory=Sizes)
    activations: Activations = field(default_factory=Activations)
    gradients: Gradients = field(default_factory=Gradients)
    wiring: Wiring = field(default_factory=Wiring)
    logit_lens: LogitLens = field(default_factory=LogitLens)
    read_tokens: ReadTokens = field(default_factory=ReadTokens)
    relp: Relp = field(default_factory=Relp)
    edges: Edges = field(default_factory=Edges)
    labels: Labels = field(default_factory=Labels)
    cooccurrence: Cooccurrence = field(default_factory=Cooccurrence)
    cluster: Cluster = field(default_factory=Cluster)
    origin: Path = Path("recipe.toml")

    def path(self, value: str) -> Path:
        """A path of the recipe, relative to the recipe's folder unless absolute."""
        return (self.origin.parent / value).resolve()

    def parameters(self) -> dict[str, object]:
        """Every parameter of every section as "section.key", without places of files (the ledger has their names)."""
        sections = {f.name: getattr(self, f.name) for f in fields(self) if is_dataclass(getattr(self, f.name))}
        found = {f"{name}.{key}": value for name, section in sections.items() for key, value in vars(section).items()}
        return {key: value for key, value in found.items() if key not in _PLACES}

    @property
    def is_assembly(self) -> bool:
        """Whether nothing is measured: no model, no corpus."""
        return not self.model

    @property
    def label_files(self) -> list[Path]:
        """The label files, in order."""
        return [self.path(one) for one in self.labels.files]

    @property
    def assignments_file(self) -> Path | None:
        """The file of cluster assignments."""
        return None if self.cluster.assignments is None else self.path(self.cluster.assignments)

    @property
    def store_folder(self) -> Path | None:
        """The edge store."""
        return None if self.edges.store is None else self.path(self.edges.store)

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
    if not {"model", "sizes"} & content.keys():
        raise InputError(f"{file}: model is missing; {_NEEDED}")
    recipe = _section(Recipe, content, where=str(file), origin=file.resolve())
    _verify(recipe, str(file))
    _verify_kind(recipe, content, str(file))
    return recipe


def _section(kind: type[_Section], content: Mapping[str, Any], *, where: str, **given: Any) -> _Section:
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind) if f.name not in given}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    missing = [f.name for f in fields(kind) if f.name in known - values.keys() and _is_required(f)]  # type: ignore[arg-type]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing; {_NEEDED}")
    return kind(**values, **given)


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


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
        "read_tokens.top": (recipe.read_tokens.top, 0),
        "edges.min_count": (recipe.edges.min_count, 1),
        "cluster.min_count": (recipe.cluster.min_count, 1),
        "sizes.layers": (recipe.sizes.layers, 1),
        "sizes.d_mlp": (recipe.sizes.d_mlp, 1),
    }
    for key, (value, least) in bounds.items():
        if value is not None and not least <= value < math.inf:  # also when it is not a number
            raise InputError(f"{where}: {key} is {value}, it must be at least {least}")
    if recipe.relp.metric not in ("top_k", "margin"):
        raise InputError(f'{where}: relp.metric is {recipe.relp.metric!r}, use "top_k" or "margin"')
    _verify_method(recipe.cluster, where)
    _verify_precedence(recipe.labels, where)
    if not 0.5 < recipe.activations.fire_quantile < 1:
        raise InputError(f"{where}: activations.fire_quantile is {recipe.activations.fire_quantile}, use 0.5 to 1")
    if recipe.edges.neuron_graphs not in ("auto", "table", "store"):
        raise InputError(
            f'{where}: edges.neuron_graphs is {recipe.edges.neuron_graphs!r}, use "auto", "table" or "store"'
        )


def _verify_method(section: Cluster, where: str) -> None:
    """Refuse a method that there is not, and a key that it does not take."""
    from atlas.derive.clustering.methods import make_options

    try:
        make_options(section.method, section.options())
    except InputError as error:
        raise InputError(f"{where}: cluster: {error}") from error


def _verify_precedence(section: Labels, where: str) -> None:
    from atlas.ingest.label_choice import read_precedence

    try:
        read_precedence(section.precedence)
    except InputError as error:
        raise InputError(f"{where}: labels.precedence: {error}") from error


def _verify_kind(recipe: Recipe, content: Mapping[str, Any], where: str) -> None:
    """Refuse what belongs neither to a build from a model nor to an assembly."""
    sizes = [name for name in ("layers", "d_mlp") if getattr(recipe.sizes, name) is not None]
    if len(sizes) == 1:
        raise InputError(f"{where}: sizes has {sizes[0]} only; give layers and d_mlp (neurons of a layer)")
    if not recipe.is_assembly:
        if not recipe.corpus:
            raise InputError(f"{where}: corpus is missing; a recipe with a model needs the texts it is measured on")
        if recipe.store_folder and "relp" in content:
            raise InputError(f"{where}: both edges.store and [relp] give edges; remove one of them")
        return
    if not sizes:
        raise InputError(f"{where}: model is missing; {_NEEDED}")
    for key in ("corpus", "dtype", *_MEASURED):
        if key in content:
            shown = f"[{key}]" if key in _MEASURED else key
            raise InputError(f"{where}: {shown} is about measuring a model and there is none; remove it or set model")
    if not (recipe.edges.store or recipe.labels.files or recipe.cluster.assignments):
        raise InputError(f"{where}: nothing to assemble; set edges.store, labels.files or cluster.assignments")
    if recipe.cluster.assignments and {*content["cluster"]} - {"assignments", "strict"}:
        raise InputError(
            f"{where}: cluster.assignments replaces Infomap; remove min_count, seed, trials and what else is about it"
        )
