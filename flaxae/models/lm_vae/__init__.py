"""Text autoencoders whose decoder is a pretrained language model."""
