"""The dashboard of a dictionary: one HTML page on its features (`python -m flaxae.dashboard`)."""
