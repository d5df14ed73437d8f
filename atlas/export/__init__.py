"""Answers -> files that other tools read; nothing here imports torch."""
