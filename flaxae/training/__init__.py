"""Training: the loop that all families share, and its parts."""
