"""Build the stories260K atlas: data/recipes/stories260K.toml -> data/stories260K.duckdb."""

from pathlib import Path

from atlas.cli.main import main

if __name__ == "__main__":
    main(["build", str(Path(__file__).parents[1] / "data" / "recipes" / "stories260K.toml")])
