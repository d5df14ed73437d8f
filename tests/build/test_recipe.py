"""Recipes: defaults, and one clear line for everything that is wrong."""

from pathlib import Path

import pytest

from atlas.build.recipe import read_recipe
from atlas.build.steps import STEPS, step_keys, wanted_steps
from atlas.errors import InputError

BASE = 'name = "x"\nmodel = "m"\ncorpus = "c.json"\natlas = "x.duckdb"\n'


def recipe(tmp_path: Path, text: str = ""):
    file = tmp_path / "r.toml"
    file.write_text(BASE + text)
    return read_recipe(file)


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    found = recipe(tmp_path, '[relp]\ntau = 1\nalways_on = ["L0/N1"]\n')
    assert found.relp.always_on == ("L0/N1",)
    assert found.atlas_path == tmp_path / "x.duckdb"
    assert found.build_folder == tmp_path / "x.duckdb.build"
    assert found.relp.tau == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extra = 1\n", r"unknown key 'extra'; known are activations"),
        ("[relp]\ngraph = 1\n", r"relp: unknown key 'graph'; known are always_on, graphs"),
        ("[relp]\ngraphs = 'many'\n", r"relp: graphs must be int, found 'many'"),
        ("[read_tokens]\ntop = -1\n", r"read_tokens\.top is -1, it must be at least 0"),
        ("[relp]\ngraphs = -1\n", r"relp\.graphs is -1, it must be at least 0"),
        ("[relp]\ngraphs = true\n", r"graphs must be int, found True"),
        ("relp = 3\n", r"relp must be a section"),
        ("[relp]\ntau = nan\n", r"relp\.tau is nan, it must be at least 0"),
        ("[relp]\nmax_nodes = 0\n", r"relp\.max_nodes is 0, it must be at least 1"),
        ('[relp]\nmetric = "loss"\n', r"relp\.metric is 'loss', use \"top_k\" or \"margin\""),
        ('[relp]\nalways_on = ["L0/N1", 2]\n', r"always_on must be a list of strings, found \['L0/N1', 2\]"),
        ("[activations]\nfire_quantile = 2\n", r"fire_quantile is 2\.0, use 0\.5 to 1"),
        ("[edges\n", r"not valid TOML"),
    ],
)
def test_wrong_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, text)


def test_missing_recipe_and_missing_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data/recipes"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text('name = "x"\n')
    with pytest.raises(InputError, match="model is missing"):
        read_recipe(tmp_path / "r.toml")


def test_the_recipes_that_we_ship_are_read() -> None:
    folder = Path(__file__).parents[2] / "data" / "recipes"
    assert {read_recipe(path).name for path in folder.glob("*.toml")} >= {"demo", "stories260K", "slm4096"}


def changed(tmp_path: Path, before: str, after: str) -> set[str]:
    inputs = {"corpus": "1"}
    one, two = (step_keys(recipe(tmp_path, text), inputs) for text in (before, after))
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def test_a_parameter_changes_only_what_depends_on_it(tmp_path: Path) -> None:
    assert changed(tmp_path, "", "[cluster]\nseed = 7\n") == {"table:infomap", "table:neurons", "table:search"}
    assert changed(tmp_path, "", "[activations]\ntokens_kept = 9\n") == {
        "table:exemplars",
        "table:labels",
        "table:neurons",
        "table:search",
    }
    assert "activations" not in changed(tmp_path, "", "[relp]\ntau = 0.1\n")
    assert {"wiring", "table:wiring", "table:edges", "table:infomap"} <= changed(tmp_path, "", "[wiring]\ntop = 3\n")


def test_read_tokens_are_measured_alone_and_can_be_left_out(tmp_path: Path) -> None:
    both = {"read_tokens", "table:read_tokens"}
    assert changed(tmp_path, "", "[read_tokens]\ntop = 5\n") == both
    assert changed(tmp_path, "", "[read_tokens]\ntop = 0\n") == both  # no such steps; the others are as before
    assert not both & {step.name for step in wanted_steps(recipe(tmp_path, "[read_tokens]\ntop = 0\n"))}


def test_needs_come_before_and_exist() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert set(step.needs) <= seen, step.name
        seen.add(step.name)


def test_steps_not_wanted_are_left_out(tmp_path: Path) -> None:
    names = {step.name for step in wanted_steps(recipe(tmp_path, "[relp]\ngraphs = 0\n[gradients]\ndocuments = 0\n"))}
    assert not {"relp", "gradients"} & names
    assert "table:edges" in names


def test_defaults_of_recipes_are_those_of_the_measurements() -> None:
    pytest.importorskip("torch")
    from atlas.build.recipe import Activations, Relp
    from atlas.measure.activations import ActivationOptions
    from atlas.measure.relp import RelpOptions

    for section, options in ((Activations(), ActivationOptions()), (Relp(), RelpOptions())):
        same = {"exemplars": "top", "tokens": None, "batch_tokens": "batch_tokens"}
        for name, value in vars(section).items():
            other = same.get(name, name)
            if other is not None and hasattr(options, other):
                assert getattr(options, other) == value, name
