"""Data: real text that needs no download, files, hubs, tokenizer, splits, batches."""
