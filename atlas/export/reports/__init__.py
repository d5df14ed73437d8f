"""Neurons and modules -> pages a colleague opens offline, and the same as JSON."""
