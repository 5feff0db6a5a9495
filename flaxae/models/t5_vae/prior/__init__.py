"""A rectified flow, trained on the codes of a T5-VAE, as a prior to sample from."""
