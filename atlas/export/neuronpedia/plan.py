"""What a person asks for -> a checked plan, the names it is published under, and what an atlas lacks for a layout.

Everything that can be refused is refused here, before the first byte is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard")
VISIBILITIES = ("private", "unlisted", "public")
DEFAULT_USER = "clkht01d40000jv08hvalcvly"  # DEFAULT_CREATOR_USER_ID of a new Neuronpedia
STORED_BINS = 64  # of neuron_stats.hist, without its underflow and overflow
MLP_SET = "neurons"  # the set whose sources are bare layer numbers; the upload route refuses it
HELD = {  # what a layout has a place for
    "bulk": ("logit_lens", "histograms", "explanations"),
    "upload": ("logit_lens", "explanations"),
    "prd": ("logit_lens", "histograms", "top_tokens", "explanations"),
    "sae-dashboard": ("logit_lens", "histograms"),
}
_NEEDED = {"upload": ("neuron_stats", "exemplars"), "sae-dashboard": ("neuron_stats",)}
_MEANT = {
    "exemplars": "exemplars: no activations",
    "neuron_stats": "activation statistics: no densities (frac_nonzero -1), no histograms",
    "logit_lens": "logit lens: no promoted and suppressed tokens",
    "labels": "labels: no explanations",
    "token_stats": "token statistics: no top tokens",
}
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_USER = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class NeuronpediaPlan:
    """What is exported and how; None where a default depends on the atlas or the layout."""

    neurons: Sequence[int]  # packed ids, in any order
    layout: str = "bulk"
    logit_lens: bool = True
    histograms: bool = True
    top_tokens: bool = True
    explanations: bool = True
    top_k: int = 20  # promoted and suppressed tokens
    bins: int = 50
    tokens: int = 50  # top tokens of each sign
    activations: int = 20  # exemplars of each sign
    signs: tuple[int, ...] = (1,)  # of exemplars, top tokens and labels
    model_id: str | None = None
    creator_id: str = DEFAULT_USER
    creator: str = "atlas"  # its name as shown
    author_id: str | None = None  # of explanations; the creator's without one
    release: str | None = None
    set: str | None = None
    visibility: str = "private"
    model: str | None = None  # folder whose weights are included
    zip: bool = True  # the prd layout as one file
    force: bool = False
    most_bytes: int = 8 << 30

    def wants(self, part: str) -> bool:
        """Whether a part (logit_lens, histograms, top_tokens, explanations) is asked for and has a place."""
        return bool(getattr(self, part)) and part in HELD[self.layout]

    def options(self) -> dict[str, Any]:
        """The options that change the package, for its metadata and for knowing a plan again."""
        left_out = {"neurons", "force", "most_bytes"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True)
class Names:
    """What the package calls things."""

    model_id: str
    set: str
    release: str
    creator_id: str
    creator: str
    author_id: str
    visibility: str  # PRIVATE, UNLISTED or PUBLIC

    def source(self, layer: int) -> str:
        """Id of a layer's source: its bare number in the set of MLP neurons."""
        return str(layer) if self.set == MLP_SET else f"{layer}-{self.set}"


def names(atlas: Atlas, plan: NeuronpediaPlan) -> Names:
    """Names with the defaults filled in; the model's id is its name without folders, in lower case."""
    known = re.sub(r"[^a-z0-9_-]+", "-", atlas.metadata.get("model", "").rsplit("/", 1)[-1].lower()).strip("-")
    model_id = plan.model_id or known or "model"
    chosen = plan.set or ("atlas-mlp" if plan.layout == "upload" else MLP_SET)
    release = plan.release or f"{model_id}-neurons"
    author = plan.author_id or plan.creator_id
    return Names(model_id, chosen, release, plan.creator_id, plan.creator, author, plan.visibility.upper())


def check_plan(atlas: Atlas, plan: NeuronpediaPlan) -> tuple[str, ...]:
    """What the atlas lacks and what is done otherwise than asked, in words.

    Raises InputError for a bad plan, StoreError for an atlas that lacks what the layout needs.
    """
    _check_numbers(plan)
    _check_names(atlas, plan)
    if not plan.neurons:
        raise InputError("no neurons to export; give NEURONS, --all or --extracted")
    last = atlas.layers * atlas.d_mlp - 1
    if min(plan.neurons) < 0 or max(plan.neurons) > last:
        raise InputError(f"feature ids of {atlas.name} are 0..{last}, found {min(plan.neurons)}..{max(plan.neurons)}")
    lacking = missing_tables(atlas)
    possible = possible_layouts(lacking)
    if plan.layout not in possible:
        needed = [_MEANT[table].split(":")[0] for table in _NEEDED[plan.layout] if table in lacking]
        raise StoreError(
            f"the {plan.layout} layout needs {' and '.join(needed)}, which {atlas.name} was built without; possible "
            f"here: --layout {' or '.join(possible)}"
        )
    told = [f"{atlas.name} has no {_MEANT[table]}" for table in lacking if _wanted(plan, table)]
    if plan.wants("histograms") and "neuron_stats" not in lacking and merged_bins(STORED_BINS, plan.bins) != plan.bins:
        told.append(bins_note(plan.bins))
    return tuple(told)


def missing_tables(atlas: Atlas) -> tuple[str, ...]:
    """Tables behind a package that the atlas lacks or has no row in; names in the table neurons are labels too."""
    ask = {table: f"SELECT 1 FROM {table} LIMIT 1" for table in _MEANT}
    empty = [table for table, text in ask.items() if table in atlas.missing or not atlas.free(text, {}).fetchall()]
    named = "labels" in empty and atlas.free("SELECT 1 FROM neurons WHERE label <> '' LIMIT 1", {}).fetchall()
    return tuple(table for table in empty if not (named and table == "labels"))


def possible_layouts(lacking: Sequence[str]) -> list[str]:
    """Layouts that can be made without these tables."""
    return [layout for layout in LAYOUTS if not set(_NEEDED.get(layout, ())) & set(lacking)]


def _wanted(plan: NeuronpediaPlan, table: str) -> bool:
    part = {"logit_lens": "logit_lens", "labels": "explanations", "token_stats": "top_tokens"}.get(table)
    return part is None or plan.wants(part)


def merged_bins(stored: int, wanted: int) -> int:
    """The largest number of bins up to `wanted` that `stored` ones can be merged into.

    >>> merged_bins(64, 50), merged_bins(64, 64), merged_bins(64, 100)
    (32, 64, 64)
    """
    return max(n for n in range(1, min(stored, wanted) + 1) if stored % n == 0)


def bins_note(wanted: int) -> str:
    """What histograms are made of; only whole stored bins are merged, so that no count is split."""
    merged = merged_bins(STORED_BINS, wanted)
    made = f"{merged} bins" if merged == STORED_BINS else f"{merged} bins, each {STORED_BINS // merged} stored ones"
    asked = "" if merged == wanted else f" ({wanted} do not divide the {STORED_BINS} stored; no count is split)"
    return f"histograms have {made}{asked}, and outer ones for positions beyond them"


def _check_numbers(plan: NeuronpediaPlan) -> None:
    if plan.layout not in LAYOUTS:
        raise InputError(f"no layout {plan.layout!r}; choose {', '.join(LAYOUTS)}")
    for name in ("top_k", "bins", "tokens", "activations"):
        if getattr(plan, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(plan, name)}; it must be at least 1")
    if not plan.signs or not set(plan.signs) <= {1, -1}:
        raise InputError(f"signs are {plan.signs}; give (1,), (-1,) or (1, -1)")
    if plan.layout == "upload" and plan.top_k > 20:
        raise InputError(f"the upload route takes at most 20 promoted tokens, --top-k is {plan.top_k}; use --top-k 20")


def _check_names(atlas: Atlas, plan: NeuronpediaPlan) -> None:
    if plan.visibility.lower() not in VISIBILITIES:
        raise InputError(f"no visibility {plan.visibility!r}; choose {', '.join(VISIBILITIES)}")
    used = names(atlas, plan)
    for option, value in (("model-id", used.model_id), ("release", used.release), ("set", used.set)):
        if not _ID.fullmatch(value):
            raise InputError(
                f"--{option} is {value!r}; use lower-case letters, digits, '-', '_' and '.', at most 128 of them"
            )
    for option, value in (("creator-id", used.creator_id), ("author-id", used.author_id)):
        if not _USER.fullmatch(value):
            raise InputError(f"--{option} is {value!r}; expected the id of a user of the site, such as {DEFAULT_USER}")
    if plan.layout == "upload" and used.set == MLP_SET:
        raise InputError("the upload route takes no set called 'neurons'; give another --set, for example atlas-mlp")
    if plan.layout == "bulk" and used.set != MLP_SET:
        raise InputError(f"--set is {used.set!r}; in the bulk layout MLP neurons are the set 'neurons': leave it out")
