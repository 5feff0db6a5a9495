"""Parts that all text autoencoders share; no file here knows a family of `flaxae.models`.

protocol       interfaces: the module, its task, and what the explorer requires of an autoencoder
channel        the noise on codes in training, and the bits that get through
codec          the engine: texts, ids and codes, in batches of a few fixed sizes
checks         user input, checked
api            `TextAutoencoder`, the base class of the classes that users load
coding         its part that encodes and decodes
pretrained     its part that opens and saves models
saving         the files of a saved model
latent_stats   mean and standard deviation of a model's codes
interpolation  paths between two codes
priors/        densities that codes are drawn from
kl             KL terms of the loss, and the weights of loss terms over time
batches        batches of several lengths, and their comparison with decoded rows
split_terms    loss terms of a whole held-out split
samples        texts for the log; the held-out lines of an evaluation
reconstruction, latent_measures, figures    measures of texts and of codes, and their plots
"""
