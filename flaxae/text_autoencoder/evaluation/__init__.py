"""Parts of an evaluation that all text autoencoders share: numbers for JSON, and their text.

- `latent`: the distribution of codes against N(0, I), and the information that they carry.
- `samples`: texts of N(0, I), of fitted priors and of the corpus under one n-gram model.
- `interpolation`: paths between codes, compared with two baselines that need no model.
- `paths`: the codes and texts of many paths at once.
- `arithmetic`: a - b + c of codes, and its nearest text.
- `attributes`: the difference of two classes' mean codes, added to codes; `ngram_probe` judges.
- `attribute_report`: that study as a command, with a figure and ten paths.
- `text_space`: shuffled lines, neighbours, edits, and texts after rounds of decoding and encoding.
- `readable`: these parts as text.
- `run_report`: the frame of a family's report, with all of these parts.
- `headline`: the main numbers of a report as one flat dict.
"""
