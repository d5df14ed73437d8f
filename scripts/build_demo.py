"""Build the demo atlas: data/recipes/demo.toml -> data/demo.duckdb."""

from pathlib import Path

from atlas.cli.main import main

if __name__ == "__main__":
    main(["build", str(Path(__file__).parents[1] / "data" / "recipes" / "demo.toml")])
