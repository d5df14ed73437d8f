"""Transformer folders -> modules and tensors by role: the only floor, with atlas.measure, that imports torch."""
