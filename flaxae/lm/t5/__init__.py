"""T5: modules, the table of its weights, text generation, published sizes."""
