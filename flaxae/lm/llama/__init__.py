"""Llama-style models: modules, and the table of their weights."""
