"""Build the stories260K atlas: data/recipes/stories260K.toml -> data/stories260K.duckdb."""

from pathlib import Path

from atlas.cli.build import build

if __name__ == "__main__":
    build([str(Path(__file__).parents[1] / "data" / "recipes" / "stories260K.toml")])
