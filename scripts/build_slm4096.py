"""Build the slm4096 atlas: data/recipes/slm4096.toml -> data/slm4096.duckdb."""

from pathlib import Path

from atlas.cli.main import main

if __name__ == "__main__":
    main(["build", str(Path(__file__).parents[1] / "data" / "recipes" / "slm4096.toml")])
