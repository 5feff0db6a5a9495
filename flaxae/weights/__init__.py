"""Weight files of other libraries, read and written through one table per model.

`hf` is Hugging Face's layout of directories, `gguf` llama.cpp's files. The tables, which say what
parameter lies in what tensor, are the `params.py` beside each model.
"""
