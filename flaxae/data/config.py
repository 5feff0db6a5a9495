"""The data section of configs whose data are texts."""

import dataclasses
import enum

from flaxae.config import Config, DataConfig
from flaxae.config.ranges import Count, Counts, Whole
from flaxae.errors import ConfigError, require


class LongLines(enum.Enum):
    """Treatment of texts that are longer than a row."""

    SKIP = "skip"
    TRUNCATE = "truncate"


class TokenizerKind(enum.Enum):
    """Model of a tokenizer that is trained on the corpus."""

    BPE = "bpe"
    UNIGRAM = "unigram"


@dataclasses.dataclass
class TextDataConfig(DataConfig):
    """A corpus, its tokenizer, and the lengths of its batches.

    `path` (a text file with one example per line, or a directory of .txt or .parquet shards) takes
    precedence over `name` (an embedded corpus, "sentences[:part,part]", `recipe:<name>`,
    `hf:<name or path>` or `tfds:<name>`).
    """

    name: str = "python_lines"
    path: str = ""
    max_length: Count = 32  # tokens per row, EOS included
    num_buckets: Count = 4  # parts of equal size into which a batch is divided by length
    long_lines: LongLines = LongLines.SKIP
    vocab_size: Count = 4096  # size of a tokenizer that is trained on the corpus
    max_lines: Whole = 0  # distinct lines to read; 0: all
    labels: bool = False  # lines are label<tab>text; tables have a column "label"
    # A tokenizer.json, spiece.model or vocab.txt, a directory or Hub id of one, or "byt5"; "": one
    # is trained.
    tokenizer: str = ""
    tokenizer_kind: TokenizerKind = TokenizerKind.BPE  # model of a trained tokenizer
    ids_tokenizer: str = ""  # directory of the tokenizer that decodes a data set of token ids
    # Fixed bucket lengths, such as (32, 64, 128); batch_size / num_buckets rows are then the unit
    # in which the lengths share a batch. (): lengths that cut the data into num_buckets parts.
    bucket_edges: Counts = ()

    def validate(self) -> None:
        """Check the bucket lengths."""
        super().validate()
        edges = self.bucket_edges
        if edges:
            require(
                edges[0] > 1 and list(edges) == sorted(set(edges)) and edges[-1] == self.max_length,
                f"data.bucket_edges={edges} must be ascending lengths in tokens that end with"
                f" data.max_length={self.max_length}",
            )
            require(
                len(edges) <= self.num_buckets,
                f"data.bucket_edges={edges}: more than data.num_buckets={self.num_buckets} lengths,"
                " one for each part of a batch",
            )


def text_data(config: Config) -> TextDataConfig:
    """Return the data section of a text family's config.

    Raises:
        ConfigError: if the section is of another class.
    """
    if not isinstance(config.data, TextDataConfig):
        raise ConfigError(f"data: a TextDataConfig is needed, not a {type(config.data).__name__}")
    return config.data
