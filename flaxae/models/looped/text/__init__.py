"""The looped blocks as a language model of bytes."""
