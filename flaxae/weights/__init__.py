"""Other libraries' files. Files from outside are data: safetensors and JSON, never pickles."""
