"""Adapters as probes: an adapter learns to lie, and probes of hidden states detect it."""
