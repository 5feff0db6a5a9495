"""T5-VAE: a T5 as an autoencoder of texts, with one latent code per text."""
