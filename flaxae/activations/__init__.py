"""Hidden states of language models: inside one forward pass (`read`), of many texts (`collect`)."""
