"""Probes of hidden states: each has `fit`, `scores` and `predict_proba`."""
