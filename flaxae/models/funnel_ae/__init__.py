"""Funnel AE: the Funnel Transformer as a text autoencoder."""
