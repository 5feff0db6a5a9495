"""Data: embedded text, files, hubs, tokenizers, splits and batches."""
