"""Byte language models that are trained with little or no backpropagation through time."""
