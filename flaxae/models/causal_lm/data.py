"""Prompts with completions: function signatures and their docstrings, or a JSONL file.

The embedded set is read at run time from the standard library of the running Python.
"""

import ast
import dataclasses
import functools
import hashlib
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from flaxae.data import embedded
from flaxae.data.config import TextDataConfig
from flaxae.data.packing import Example
from flaxae.data.records import json_rows
from flaxae.errors import ConfigError, require
from flaxae.lm.chat import ChatTokenizer

SIGNATURES = "signatures"
ASK = "Write the first sentence of the docstring of this Python function.\n\n"
SHARES = {"test": 0.08, "dev": 0.04}  # shares of the files
_SENTENCE = re.compile(r"^(.+?[.!?])(?:\s|$)", re.DOTALL)
_MAX_SENTENCE = 200  # characters


class Pair(NamedTuple):
    """A prompt and its completion."""

    prompt: str
    completion: str


@dataclasses.dataclass
class Pairs:
    """Splits of pairs.

    Attributes:
        name: the source of the pairs.
        splits: "train", "dev", "test" -> pairs; every pair is in one split only.
        notes: lines that describe what was left out.
    """

    name: str
    splits: dict[str, list[Pair]]
    notes: list[str] = dataclasses.field(default_factory=list)


def read(config: TextDataConfig) -> Pairs:
    """Read the pairs that a config names.

    Raises:
        ConfigError: if there is no such set, or the file is not JSONL of prompts and completions.
    """
    if config.path:
        return _from_file(config.path, config)
    require(
        config.name == SIGNATURES,
        f"data.name={config.name!r}: the embedded set is {SIGNATURES!r}; set data.path to a JSONL "
        'file of {"prompt": "...", "completion": "..."} for your own',
    )
    name = f"{SIGNATURES} of {embedded.python_version()}"
    return _split(name, _library_pairs(), config.seed)


@functools.cache
def _library_pairs() -> list[tuple[str, list[Pair]]]:
    """Return the pairs of each file of the standard library."""
    files = [(name, _pairs(source)) for name, source in embedded.library_sources()]
    return [(name, pairs) for name, pairs in files if pairs]


def _from_file(path: str, config: TextDataConfig) -> Pairs:
    """Read a JSONL file; every line counts as a separate file when splits are made."""
    pairs, fields = [], dict.fromkeys(Pair._fields)
    for where, row in json_rows(path, f"data.path={path}"):
        texts = [row.get(name) for name in Pair._fields]
        if wrong := [n for n, x in zip(Pair._fields, texts, strict=True) if not _is_text(x)]:
            raise ConfigError(
                f'data.path={path}, {where}: not {{"prompt": "...", "completion": "..."}}: '
                f"{' and '.join(wrong)} must be a text that is not empty (there are"
                f" {', '.join(row) or 'no fields'})"
            )
        fields |= dict.fromkeys(row)
        pairs.append((where.split()[1], [Pair(*map(str, texts))]))
    require(len(pairs) > 2, f"data.path={path}: {len(pairs)} pairs are too few: give at least 3")
    out = _split(path, pairs, config.seed)
    if unused := [name for name in fields if name not in Pair._fields]:
        out.notes.append(f"{path}: fields that are not used: {', '.join(unused)}")
    return out


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _split(name: str, files: list[tuple[str, list[Pair]]], seed: int) -> Pairs:
    """Assign whole files to splits; pairs that occur in dev or test are removed from training.

    Raises:
        ConfigError: if a split remains without pairs.
    """

    def rank(item: tuple[str, Any]) -> bytes:
        return hashlib.blake2b(f"{seed}/{item[0]}".encode(), digest_size=8).digest()

    files = sorted(files, key=rank)
    out, start = {}, 0
    for split, share in SHARES.items():
        stop = start + max(1, round(share * len(files)))
        out[split] = list(dict.fromkeys(p for _, pairs in files[start:stop] for p in pairs))
        start = stop
    distinct = {p for _, pairs in files for p in pairs}
    out["dev"] = [p for p in out["dev"] if p not in set(out["test"])]
    rest = list(dict.fromkeys(p for _, pairs in files[start:] for p in pairs))
    held_out = {*out["test"], *out["dev"]}
    train = [p for p in rest if p not in held_out]
    if empty := [split for split, pairs in (("dev", out["dev"]), ("train", train)) if not pairs]:
        plural = "pair" if len(distinct) == 1 else "pairs"
        raise ConfigError(
            f"{name}: no pair is left for {' and '.join(empty)}, since its {len(files)} entries are"
            f" {len(distinct)} distinct {plural}, and a pair is in one split only: give more"
            " different pairs"
        )
    notes = [f"{len(rest) - len(train)} pairs of training files are left out: dev or test has them"]
    return Pairs(name, {"train": train, **out}, notes)


def _pairs(source: str) -> list[Pair]:
    """Return a pair for each documented function of a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return []
    out = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        match = _SENTENCE.match(ast.get_docstring(node) or "")
        sentence = " ".join(match.group(1).split()) if match else ""
        if 10 <= len(sentence) <= _MAX_SENTENCE:
            out.append(Pair(ASK + _signature(node), sentence))
    return out


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the source of a function's first line."""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{start} {node.name}({ast.unparse(node.args)}){returns}:"


def encoded(
    pairs: list[Pair], tokenizer: ChatTokenizer, ends: Sequence[int], system: str = ""
) -> list[Example]:
    """Return the token ids of pairs, in the form of the model's chat template if it has one.

    Args:
        pairs: prompts with completions.
        tokenizer: the model's tokenizer.
        ends: the ids that end a text of the model; `ChatTokenizer.turn` chooses one.
        system: system message of the chat; "": the template's own.
    """
    turn, special = tokenizer.turn(ends, system), not tokenizer.template
    texts = [prompt_text(p.prompt, tokenizer, system) for p in pairs]
    answers = [f"{turn.before}{p.completion}{turn.after}" for p in pairs]
    prompts = tokenizer.encode(texts, special=special)
    rows = tokenizer.encode(answers, special=False)
    if turn.before or turn.after:
        # The ids of the conversation as a whole, where the prompt's are the beginning of them.
        whole = tokenizer.encode(
            [a + b for a, b in zip(texts, answers, strict=True)], special=special
        )
        for i, (prompt, ids) in enumerate(zip(prompts, whole, strict=True)):
            rows[i] = ids[len(prompt) :] if ids[: len(prompt)] == prompt else rows[i]
    return [Example(p, [*a, turn.end]) for p, a in zip(prompts, rows, strict=True)]


def prompt_text(prompt: str, tokenizer: ChatTokenizer, system: str = "") -> str:
    """Return the text before an answer.

    Args:
        prompt: the user's text.
        tokenizer: the model's tokenizer.
        system: system message of the chat; "": the template's own.
    """
    if not tokenizer.template:
        return f"{prompt}\n"
    messages = [{"role": "system", "content": system}] if system else []
    return tokenizer.chat([*messages, {"role": "user", "content": prompt}])
