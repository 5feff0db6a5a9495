"""Training of sparse autoencoders over hidden states; forward passes: `sparse_autoencoder`."""
