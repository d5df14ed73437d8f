"""Endpoints, one file per noun: each reads what was asked, calls one function, gives back plain data."""
