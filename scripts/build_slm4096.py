"""Build the slm4096 atlas: data/recipes/slm4096.toml -> data/slm4096.duckdb."""

from pathlib import Path

from atlas.cli.build import build

if __name__ == "__main__":
    build([str(Path(__file__).parents[1] / "data" / "recipes" / "slm4096.toml")])
