"""Building of shards with `datasets`, whose `num_proc` starts the processes."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from flaxae.data.text import digest
from flaxae.data.wikipedia import clean, shards
from flaxae.data.wikipedia.shards import Plan, Sentences
from flaxae.errors import ConfigError

_ORDER, _STARTS = "order.npy", "starts.npy"


def build(plan: Plan, num_proc: int) -> dict[str, Any]:
    """Build the missing shards; each process writes whole shards.

    A dump or a tfds data set is first copied into OUT/.articles as Arrow files (about the size of
    its text), from which shards are read. That folder is deleted after the last shard. A process
    needs memory for one article and 8 bytes per article for the order.

    Args:
        plan: source, folder and options.
        num_proc: number of processes.

    Returns:
        The manifest.

    Raises:
        ConfigError: if the source cannot be read, or the folder contains something else.
    """
    import datasets

    if plan.source.markup:
        clean.require_parser()
    missing = shards.begin(plan)
    if missing:
        table = plan.source.table(plan.articles, num_proc)
        _sort(plan, table)
        # Without new_fingerprint, datasets would hash the whole table.
        datasets.Dataset.from_dict({"shard": missing}).map(
            _one_shard,
            fn_kwargs={"plan": plan, "table": table},
            num_proc=min(num_proc, len(missing)) if num_proc > 1 else None,
            new_fingerprint=digest([plan.fingerprint, repr(missing)]),
            load_from_cache_file=False,
            keep_in_memory=True,
            desc="shards",
        )
    manifest = shards.finish(plan)
    if not manifest["complete"]:
        raise ConfigError(
            f"{plan.out!r}: some shards were not written; run the command again to continue"
        )
    shutil.rmtree(plan.articles, ignore_errors=True)
    return manifest


def _sort(plan: Plan, table: Any) -> None:
    """Write the order of the table's rows by (shard, title), and the start of each shard."""
    titles = [title for batch in _titles(table) for title in batch]
    numbers = np.fromiter((shards.shard_of(t, plan.num_shards) for t in titles), np.int64)
    order = np.asarray(sorted(range(len(titles)), key=lambda i: (numbers[i], titles[i])), np.int64)
    os.makedirs(plan.articles, exist_ok=True)
    np.save(os.path.join(plan.articles, _ORDER), order)
    starts = np.searchsorted(numbers[order], np.arange(plan.num_shards + 1))
    np.save(os.path.join(plan.articles, _STARTS), starts)


def _titles(table: Any) -> Iterator[list[str]]:
    column = "title" if "title" in table.features else "text"
    for batch in table.select_columns([column]).iter(10_000):
        yield batch[column] if column == "title" else [text[:100] for text in batch[column]]


def _one_shard(row: dict[str, int], plan: Plan, table: Any) -> dict[str, int]:
    number = row["shard"]
    order = np.load(os.path.join(plan.articles, _ORDER), mmap_mode="r", allow_pickle=False)
    starts = np.load(os.path.join(plan.articles, _STARTS), allow_pickle=False)

    def articles() -> Iterator[Sentences]:
        for i in order[starts[number] : starts[number + 1]]:
            article = table[int(i)]
            yield sentences_of(plan, article.get("title", article["text"][:100]), article["text"])

    found = shards.write_shard(plan, number, articles())
    return {"shard": number, "sentences": found["sentences"]}


def sentences_of(plan: Plan, title: str, text: str) -> Sentences:
    """Return the title, sentences and counts of an article."""
    options = (plan.source.markup, plan.min_words, plan.max_words)
    return title, *clean.article_sentences(text, *options)
