"""Looped transformers: blocks that are applied repeatedly to their own output."""
