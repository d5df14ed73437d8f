"""Every id form in use, and what is out of range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import InputError
from atlas.neuron import NeuronId, parse_neuron

FORMS = [
    "L24/N5326",
    "l24/n5326",
    "L24/5326",
    "24_5326",
    "24_5326_7",
    "24:5326",
    "24, 5326",
    (24, 5326),
    ("L24", 5326),
    ["24", "5326"],
]


@pytest.mark.parametrize("form", [*FORMS, 24 * 11008 + 5326, str(24 * 11008 + 5326), NeuronId(24, 5326)])
def test_every_form_in_use(form: object) -> None:
    assert parse_neuron(form, layers=32, d_mlp=11008) == NeuronId(24, 5326)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64])
def test_integers_of_numpy(kind: type) -> None:
    assert parse_neuron(kind(24 * 11008 + 5326), layers=32, d_mlp=11008) == NeuronId(24, 5326)
    assert parse_neuron((kind(24), kind(5326)), layers=32, d_mlp=11008) == NeuronId(24, 5326)
    assert type(parse_neuron(kind(5), layers=32, d_mlp=11008).neuron) is int


@given(st.integers(0, 63), st.integers(0, 25599))
def test_round_trip(layer: int, neuron: int) -> None:
    wanted = NeuronId(layer, neuron)
    assert parse_neuron(str(wanted), layers=64, d_mlp=25600) == wanted
    assert parse_neuron(wanted.feature_id(25600), layers=64, d_mlp=25600) == wanted
    assert parse_neuron(f"{layer}_{neuron}_9", layers=64, d_mlp=25600) == wanted


@pytest.mark.parametrize("bad", ["L32/N0", (0, 11008), -1, 32 * 11008, NeuronId(-1, 0)])
def test_out_of_range_names_the_bounds(bad: object) -> None:
    with pytest.raises(InputError, match=r"layers 0\.\.31 and neurons 0\.\.11007"):
        parse_neuron(bad, layers=32, d_mlp=11008)


OTHER_TYPES = [None, 1.5, True, (1, 2, 3), (1.0, 2), (True, 2), np.float64(3), np.bool_(True), np.array([1, 2])]


@pytest.mark.parametrize("bad", ["", "L24", "N5", "24/", "a/b", "1_2_3_4", "24_5326 extra", *OTHER_TYPES])
def test_unreadable_ids_say_what_is_read(bad: object) -> None:
    with pytest.raises(InputError, match=r"L24/N5326"):
        parse_neuron(bad, layers=32, d_mlp=11008)
