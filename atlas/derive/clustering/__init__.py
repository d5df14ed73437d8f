"""Edges -> modules."""
