"""Building of shards with Apache Beam (the extra "beam"), for example on a cluster."""

from collections.abc import Iterable, Sequence
from typing import Any

from flaxae.data.wikipedia import clean, shards
from flaxae.data.wikipedia.build import sentences_of
from flaxae.data.wikipedia.shards import Plan, Sentences
from flaxae.errors import ConfigError

_PIECES = 1024  # pieces in which a table is read


def build(plan: Plan, arguments: Sequence[str]) -> dict[str, Any]:
    """Build the missing shards, with the same bytes as `datasets` writes.

    The folder, and a local source, must be on a file system that all workers share. Each file of a
    dump is read by one worker, and its articles are cleaned by all.

    Args:
        plan: source, folder and options.
        arguments: arguments for Beam, such as ["--runner=DirectRunner"].

    Returns:
        The manifest.

    Raises:
        ConfigError: if Beam is not installed, or as in `shards.begin`.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ConfigError(
            "--runner beam needs apache-beam, which is not installed: pip install 'flaxae[beam]'"
            " in a separate environment"
        ) from None
    if plan.source.markup:
        clean.require_parser()
    missing = shards.begin(plan)
    if missing:
        kept = frozenset(missing)
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            sentences = (
                pipeline
                | "pieces" >> beam.Create(plan.source.pieces(_PIECES), reshuffle=True)
                | "articles" >> beam.FlatMap(plan.source.read)
                | "wanted" >> beam.Filter(lambda x: shards.shard_of(x[0], plan.num_shards) in kept)
                | "spread" >> beam.Reshuffle()
                | "sentences" >> beam.Map(lambda x: sentences_of(plan, *x))
                | "shard" >> beam.Map(lambda x: (shards.shard_of(x[0], plan.num_shards), x))
            )
            # Shards without articles are written too.
            empty = pipeline | "every shard" >> beam.Create([(i, None) for i in missing])
            _ = (
                (sentences, empty)
                | beam.Flatten()
                | beam.GroupByKey()
                | "write" >> beam.Map(_write, plan)
            )
    manifest = shards.finish(plan)
    if not manifest["complete"]:
        raise ConfigError(
            f"{plan.out!r}: some shards were not written; run the command again to continue"
        )
    return manifest


def _write(shard: tuple[int, Iterable[Sentences | None]], plan: Plan) -> None:
    number, articles = shard
    shards.write_shard(plan, number, sorted((x for x in articles if x), key=lambda x: x[:2]))
