"""Subgraphs -> pages, pictures and graph files."""
