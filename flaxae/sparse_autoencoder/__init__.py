"""Sparse autoencoders as parts: forward passes, files of other projects, splice into a model."""
