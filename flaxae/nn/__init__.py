"""Layers, without weight tables, files or hidden state: every call takes a Context.

Shape letters, used in all comments and annotations:
B rows (examples) · S, T positions · N tokens: the positions of all rows on one axis · D model width
F feed-forward width · H heads · G groups of heads · K width of a head · V vocabulary · L layers
Z latent width · M memory tokens
"""
