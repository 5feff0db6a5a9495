"""Phi: modules, and the table of its weights."""
