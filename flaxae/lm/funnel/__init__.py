"""The Funnel Transformer (Dai et al. 2020), with Hugging Face's weights."""
