"""A small recipe on the demo model."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).parents[2] / "data" / "demo"
SMALL = """
[activations]
documents = 80
context_length = 32
fire_quantile = 0.9
calibration_tokens = 1024
shards = 2
[gradients]
documents = 30
[relp]
graphs = 6
tokens = 12
shards = 2
[edges]
min_count = 1
[cluster]
min_count = 1
"""


def write_recipe(
    folder: Path, *, model: Path | str = DEMO / "model", corpus: Path = DEMO / "corpus.json", extra: str = SMALL
) -> Path:
    """A recipe that writes folder/small.duckdb."""
    file = folder / "small.toml"
    file.write_text(f'name = "small"\nmodel = "{model}"\ncorpus = "{corpus}"\natlas = "{folder}/small.duckdb"\n{extra}')
    return file
