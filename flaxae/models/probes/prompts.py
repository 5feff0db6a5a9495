"""Prompts of examples: formats, few-shot examples with right or flipped answers, token ids."""

import dataclasses
import enum
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from flaxae.errors import ConfigError, require
from flaxae.lm.chat import ChatTokenizer
from flaxae.models.probes.examples import Example

Item = TypeVar("Item")
SPELLINGS = (" {}", "\n{}", "{}")


class Format(enum.Enum):
    """The form of a conversation."""

    PHI = "phi"  # Instruct: ... Output: ...
    ALPACA = "alpaca"  # ### Instruction: ... ### Response: ...
    CHATML = "chatml"  # <|im_start|>user ... <|im_end|>
    LLAMA = "llama"  # [INST] ... [/INST]
    CHAT = "chat"  # the tokenizer's own template


# Text of a system message, of a question, and of an answer with what follows it.
_PLAIN = {
    Format.PHI: ("{}\n", "Instruct: {}\nOutput:", " {}\n"),
    Format.ALPACA: ("{}\n\n", "### Instruction:\n{}\n\n### Response:\n", "{}\n\n"),
    Format.CHATML: (
        "<|im_start|>system\n{}<|im_end|>\n",
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        "{}<|im_end|>\n",
    ),
    Format.LLAMA: ("<<SYS>>\n{}\n<</SYS>>\n\n", "[INST] {} [/INST]", " {} </s><s>"),
}


class Shot(NamedTuple):
    """An example with its answer, shown before a question."""

    prompt: str
    answer: str


@dataclasses.dataclass(frozen=True)
class PromptStyle:
    """The form of all prompts.

    Attributes:
        format: form of the conversation.
        system: system message; "": none, or the template's own.
    """

    format: Format = Format.CHAT
    system: str = ""

    def text(self, prompt: str, shots: Sequence[Shot], tokenizer: ChatTokenizer) -> str:
        """Return the text whose continuation is the answer.

        Args:
            prompt: the question.
            shots: examples before it.
            tokenizer: the model's, whose template Format.CHAT uses.
        """
        if self.format is Format.CHAT:
            messages = [{"role": "system", "content": self.system}] if self.system else []
            for shot in shots:
                messages.append({"role": "user", "content": shot.prompt})
                messages.append({"role": "assistant", "content": shot.answer})
            return tokenizer.chat([*messages, {"role": "user", "content": prompt}])
        system, question, answer = _PLAIN[self.format]
        before = system.format(self.system) if self.system else ""
        asked = [*(shot.prompt for shot in shots), prompt]
        if self.format is Format.LLAMA:  # its system message is a part of the first question
            before, asked[0] = "", before + asked[0]
        answers = [answer.format(shot.answer) for shot in shots]
        turns = zip(map(question.format, asked), [*answers, ""], strict=True)
        return before + "".join(text for turn in turns for text in turn)

    def encode(self, texts: Sequence[str], tokenizer: ChatTokenizer) -> list[list[int]]:
        """Return the ids of texts of this style; a chat's text has its special tokens already."""
        own = self.format not in (Format.CHAT, Format.CHATML)
        return tokenizer.encode(texts, special=own)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of an example.

    Attributes:
        example: the example.
        lie: whether the answers of the shown examples are flipped.
        shots: the shown examples.
    """

    example: Example
    lie: bool
    shots: tuple[Shot, ...]

    @property
    def target(self) -> int:
        """The demonstrated answer: the label, flipped in a prompt that asks for a lie."""
        return self.example.label ^ int(self.lie)


def make_prompts(
    examples: Sequence[Example],
    pool: Sequence[Example],
    count: int = 2,
    lies: Sequence[bool] = (False, True),
    seed: int = 0,
) -> list[Prompt]:
    """Return the prompts of examples, by default one that asks for the truth and one for a lie.

    All prompts of a data set show the same examples, in one of two orders, so that their common
    beginning is read once (see `activations.collect`).

    Args:
        examples: the examples.
        pool: examples of the split "shots", of all data sets.
        count: examples shown per prompt, half of each label.
        lies: kinds of prompts per example.
        seed: seed of the orders.

    Returns:
        The prompts, those of one example adjacent.

    Raises:
        ConfigError: if the pool lacks examples of a data set.
    """
    shown = {name: _shown(name, pool, count) for name in {x.dataset for x in examples}}
    out = []
    for example in examples:
        chosen = in_order(shown[example.dataset], example.group, seed)
        for lie in lies:
            shots = tuple(Shot(x.prompt, x.choices[x.label ^ int(lie)]) for x in chosen)
            out.append(Prompt(example, lie, shots))
    return out


def in_order(shown: Sequence[Item], group: str, seed: int = 0) -> Sequence[Item]:
    """Return shown examples as they are or backwards, which the name of a group decides."""
    digest = hashlib.blake2b(f"{seed}/{group}".encode(), digest_size=1).digest()
    return shown[::-1] if digest[0] % 2 else shown


def _shown(name: str, pool: Sequence[Example], count: int) -> list[Example]:
    own = [x for x in pool if x.dataset == name]
    half = count // 2
    require(count % 2 == 0, f"shots={count}: half of them have each label, so give an even number")
    out: list[Example] = []
    for label in (0, 1):
        found = [x for x in own if x.label == label and x.group not in {y.group for y in out}]
        require(
            len(found) >= half,
            f"{name}: {half} examples with label {label} are needed in prompts, and there are "
            f"{len(found)}",
        )
        out += found[:half]
    # Labels alternate: 0, 1, 0, 1.
    return [out[label * half + i] for i in range(half) for label in (0, 1)]


def choice_ids(choices: Sequence[str], tokenizer: ChatTokenizer) -> list[list[int]]:
    """Return the first tokens of each choice, over three spellings (" c", newline c, "c").

    An id of two spellings is in the list once. Ids that begin both choices (such as a newline, if
    it is a token of its own) are left out, since they do not distinguish them.

    Args:
        choices: two texts.
        tokenizer: the model's.

    Raises:
        ConfigError: if a choice has no first token of its own.
    """
    found = []
    for choice in choices:
        rows = tokenizer.encode([s.format(choice) for s in SPELLINGS], special=False)
        found.append(list(dict.fromkeys(row[0] for row in rows if row)))
    own = [
        [i for i in ids if i not in other] for ids, other in zip(found, found[::-1], strict=True)
    ]
    if not all(own):
        first, second = choices
        raise ConfigError(
            f"choices {first!r} and {second!r} begin with the same tokens, so the first token of "
            "an answer does not tell which it is: give choices that begin differently"
        )
    return own


class Encoded(NamedTuple):
    """Prompts as arrays.

    Attributes:
        ids: padded on the right, (N, S).
        last: position of the last token, (N,).
        choice_ids: ids of each choice, padded with 0, (N, 2, K).
        choice_mask: 1 for ids of a choice, (N, 2, K).
        label: (N,).
        lie: 1 for prompts that ask for a lie, (N,).
    """

    ids: Int[np.ndarray, "N S"]
    last: Int[np.ndarray, "N"]
    choice_ids: Int[np.ndarray, "N 2 K"]
    choice_mask: Float[np.ndarray, "N 2 K"]
    label: Int[np.ndarray, "N"]
    lie: Int[np.ndarray, "N"]

    def arrays(self) -> dict[str, Any]:
        """Return the arrays by name."""
        return self._asdict()


def token_rows(
    prompts: Sequence[Prompt], style: PromptStyle, tokenizer: ChatTokenizer, limit: int
) -> list[list[int]]:
    """Return the token ids of prompts.

    Raises:
        ConfigError: if a prompt has more than `limit` tokens.
    """
    rows = style.encode(
        [style.text(p.example.prompt, p.shots, tokenizer) for p in prompts], tokenizer
    )
    for prompt, row in zip(prompts, rows, strict=True):
        require(
            len(row) <= limit,
            f"{prompt.example.dataset}: the prompt {prompt.example.prompt[:40]!r}... has "
            f"{len(row)} tokens, and the limit is {limit}: shorten it, show fewer examples, or "
            "raise data.max_length up to the model's context",
        )
    return rows


def encode_prompts(
    prompts: Sequence[Prompt],
    style: PromptStyle,
    tokenizer: ChatTokenizer,
    *,
    limit: int,
    width: int = 0,
) -> Encoded:
    """Return prompts as arrays.

    Args:
        prompts: the prompts.
        style: their form.
        tokenizer: the model's.
        limit: most tokens of a prompt.
        width: length of the rows; 0: that of the longest, rounded up to a multiple of 8.

    Raises:
        ConfigError: if a prompt is too long, or choices have no tokens of their own.
    """
    rows = token_rows(prompts, style, tokenizer, limit)
    width = width or -(-max(map(len, rows), default=1) // 8) * 8
    ids = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    distinct = {x: choice_ids(x, tokenizer) for x in {p.example.choices for p in prompts}}
    marks = np.zeros((2, len(prompts), 2, len(SPELLINGS)), np.int32)
    for i, prompt in enumerate(prompts):
        for j, found in enumerate(distinct[prompt.example.choices]):
            marks[0, i, j, : len(found)], marks[1, i, j, : len(found)] = found, 1
    return Encoded(
        ids,
        np.asarray([len(row) - 1 for row in rows], np.int32),
        marks[0],
        marks[1].astype(np.float32),
        np.asarray([p.example.label for p in prompts], np.int32),
        np.asarray([p.lie for p in prompts], np.int32),
    )
