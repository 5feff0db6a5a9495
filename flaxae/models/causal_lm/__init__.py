"""Fine-tuning of language models on prompts with completions."""
