"""Measures for evaluations: statistics, texts, and an n-gram language model."""
