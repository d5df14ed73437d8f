"""Shards and foreign files -> tables of the atlas; no torch here."""
