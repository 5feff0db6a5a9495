"""Weight files of other libraries, read and written through one table per model.

`hf` is Hugging Face's layout of directories, `gguf` is llama.cpp's file format. Each model's
`params.py` contains its table, which maps parameters to tensors.
"""
