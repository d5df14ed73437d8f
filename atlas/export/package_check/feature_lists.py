"""Statistics of one feature, named as in Neuronpedia's table -> lists that do not pair up, impossible densities.

The bulk layout and SAEDashboard's batches name them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from atlas.export.package_check.fields import Fields, is_number, same_length
from atlas.export.package_check.finding import At

STATISTICS: Fields = {
    "neuron_alignment_indices": "integers", "neuron_alignment_values": "numbers", "neuron_alignment_l1": "numbers",
    "correlated_neurons_indices": "integers", "correlated_neurons_pearson": "numbers",
    "correlated_neurons_l1": "numbers", "correlated_features_indices": "integers",
    "correlated_features_pearson": "numbers", "correlated_features_l1": "numbers", "neg_str": "texts",
    "neg_values": "numbers", "pos_str": "texts", "pos_values": "numbers", "frac_nonzero": "number",
    "freq_hist_data_bar_heights": "numbers", "freq_hist_data_bar_values": "numbers",
    "logits_hist_data_bar_heights": "numbers", "logits_hist_data_bar_values": "numbers",
    "decoder_weights_dist": "numbers",
}  # fmt: skip
_PAIRS = (
    ("length-logits", ("pos_str", "pos_values")),
    ("length-logits", ("neg_str", "neg_values")),
    ("length-histogram", ("freq_hist_data_bar_values", "freq_hist_data_bar_heights")),
    ("length-histogram", ("logits_hist_data_bar_values", "logits_hist_data_bar_heights")),
    ("length-table", ("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1")),
    ("length-table", ("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1")),
    ("length-table", ("correlated_features_indices", "correlated_features_pearson", "correlated_features_l1")),
    ("length-table", ("topkCosSimIndices", "topkCosSimValues")),
)
_HISTOGRAMS = (
    ("freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
    ("logits_hist_data_bar_values", "logits_hist_data_bar_heights"),
)


def check_statistics(row: Mapping[str, Any], bad: frozenset[str], at: At) -> None:
    """Lists of one length, and a density that can be; keys in `bad` have been reported."""
    for rule, names in _PAIRS:
        if not bad.intersection(names):
            same_length(row, names, rule, at)
    if "frac_nonzero" not in bad and "frac_nonzero" in row:
        check_density(row["frac_nonzero"], "/frac_nonzero", at)
    for values, heights in _HISTOGRAMS:
        if not bad & {values, heights}:
            _check_histogram(row, values, heights, at)


def _check_histogram(row: Mapping[str, Any], values: str, heights: str, at: At) -> None:
    if any(one >= other for one, other in pairwise(row.get(values) or ())):
        at.say("histogram-form", "values that ascend", row[values], f"/{values}")
    if min(row.get(heights) or (0,)) < 0:
        at.say("histogram-form", "heights from 0", min(row[heights]), f"/{heights}")


def check_density(density: Any, pointer: str, at: At) -> None:
    """A share of tokens, -1 where it is not known."""
    if not (is_number(density) and (density == -1 or 0 <= density <= 1)):
        at.say("frac-nonzero", "-1 or 0 to 1", density, pointer)


def check_bin(least: Any, most: Any, share: Any, at: At) -> None:
    """A bin of activations; numbers or None."""
    if is_number(least) and is_number(most) and least > most:
        at.say("activation-bin", "minimum <= maximum", f"{least} > {most}")
    if is_number(share) and not (share == -1 or 0 <= share <= 1):
        at.say("activation-bin", "a share from 0 to 1, or -1", share)


def check_place(place: Any, tokens: Sequence[Any] | None, pointer: str, at: At) -> None:
    """An index into the tokens; None is no index, and without tokens nothing is asked."""
    if place is not None and tokens and not 0 <= place < len(tokens):
        at.say("activation-token", f"0 to {len(tokens) - 1:,}", place, pointer)
