"""GGUF files of Llama-style models, read as if they were a Hugging Face directory.

The file's tensors get Hugging Face's names and row order and are dequantized to float32 as they are
read, so the strict tables of `weights.hf` serve both. The `gguf` package is needed.
"""

from flaxae.weights.gguf.reading import GGUF as GGUF
from flaxae.weights.gguf.reading import SUFFIX as SUFFIX
