"""The texts whose codes a flow learns."""

from types import SimpleNamespace
from typing import Any

from flaxae.models.t5_vae.prior.codes import Codes

LINES = {"train": [f"line {i}" for i in range(100)], "dev": ["a", "b"]}


def lines(split: str, num_lines: int, seed: int = 0) -> list[str]:
    text = SimpleNamespace(lines=LINES.__getitem__)
    loaded = SimpleNamespace(task=SimpleNamespace(text=text))
    codes: Any = SimpleNamespace(loaded=loaded, num_lines=num_lines, seed=seed)
    return Codes.lines(codes, split)


def test_a_part_of_the_training_texts_is_drawn_at_random_and_in_order():
    part = lines("train", 20)
    assert part == [x for x in LINES["train"] if x in set(part)] and len(part) == 20
    assert part != LINES["train"][:20] and part == lines("train", 20)
    assert part != lines("train", 20, seed=1)
    assert lines("train", 0) == lines("train", 100) == lines("train", 101) == LINES["train"]
    assert lines("dev", 1) == LINES["dev"]
