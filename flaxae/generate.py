"""Text from a language model: `python -m flaxae.generate --model smollm2-135m "..."`."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, SEEDS, WHOLE, Range, ranged
from flaxae.data.text import unicode_fault
from flaxae.errors import ConfigError, require

if TYPE_CHECKING:
    from flaxae.lm import LoadedModel

STDIN = "-"


def prompt_ids(
    lm: "LoadedModel", prompt: str, *, chat: bool = True, system: str = "", task: Any = None
) -> list[int]:
    """Return the token ids of a prompt.

    Args:
        lm: the language model with its tokenizer.
        prompt: the user's message, or the beginning of a text.
        chat: whether to use the tokenizer's chat template, if it has one.
        system: a message before the user's.
        task: the task of the run that trained the model; with `chat` its `prompt_text`, if it has
            one, makes the prompt as in training.

    Raises:
        ConfigError: if there is no tokenizer, no template for the system message, or no id.
    """
    tokenizer = lm.tokenizer
    if tokenizer is None:
        raise ConfigError("the model's files contain no tokenizer: give --tokenizer=DIR")
    template = chat and bool(tokenizer.template)
    require(template or not system, "--system needs a chat template")
    if chat and hasattr(task, "prompt_text"):
        text = task.prompt_text(prompt, tokenizer, system)
        ids = tokenizer.encode([text], special=not template)[0]
    elif template:
        messages = [{"role": "system", "content": system}] if system else []
        text = tokenizer.chat([*messages, {"role": "user", "content": prompt}])
        ids = tokenizer.encode([text], special=False)[0]
    else:
        ids = tokenizer.encode([prompt])[0]
    require(bool(ids), "the prompt is empty")
    return ids


def task_of(adapter: str) -> Any:
    """Return the task of a run's folder; None for other folders and for a user's own tasks."""
    from flaxae.config import from_json
    from flaxae.peft.hf_format import is_run
    from flaxae.storage import workdir

    if not is_run(adapter):
        return None
    raw = workdir.read_config(user_path(adapter))
    if not str(raw.get("task", {}).get("class", "")).startswith("flaxae."):
        return None
    config = from_json(raw)
    return config.task.make(config)


def open_model(args: argparse.Namespace) -> "LoadedModel":
    """Open the model that the command line names: --model, or else the base of --adapter.

    Raises:
        ConfigError: if it cannot be opened, or the adapter names no base.
    """
    from flaxae.lm import loading
    from flaxae.peft.hf_config import base_name

    base = "" if args.model or not args.adapter else base_name(args.adapter)
    require(
        bool(args.model or base or not args.adapter),
        f"{args.adapter}: it does not name the model that it was trained on: give --model",
    )
    name = args.model or base or loading.SMOLLM2
    try:
        return loading.load(name, weights=args.weights, dtype=args.dtype, tokenizer=args.tokenizer)
    except ConfigError as error:
        if not base:
            raise
        raise ConfigError(
            f"{args.adapter}: the model that it was trained on, {base!r}, cannot be opened "
            f"({error}): give --model, a directory that contains it"
        ) from None


def ends(lm: "LoadedModel", chat: bool, system: str = "", task: Any = None) -> tuple[int, ...]:
    """Return the ids that end an answer: the model's own and, with `chat`, the template's.

    Args:
        lm: the language model with its tokenizer.
        chat: see `prompt_ids`.
        system: see `prompt_ids`.
        task: see `prompt_ids`.
    """
    own = tuple(lm.config.eos_ids)
    if lm.tokenizer is None or not chat or not lm.tokenizer.template:
        return own
    system = system or getattr(getattr(task, "options", None), "system", "")
    return tuple(dict.fromkeys((*own, lm.tokenizer.turn(own, system).end)))


def texts(tokenizer: Any, parts: Iterable[list[int]]) -> Iterator[str]:
    """Yield pieces of text as ids arrive; a character waits until all its bytes are there."""
    ids, shown, text = [], "", ""
    for part in parts:
        ids += part
        text = tokenizer.decode(ids)
        whole = text.rstrip("\ufffd")
        if whole.startswith(shown) and len(whole) > len(shown):
            yield whole[len(shown) :]
            shown = whole
    if len(text) > len(shown):
        yield text[len(shown) :]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.generate",
        description="Continues a prompt, token by token.",
    )
    add = parser.add_argument
    add("prompt", help=f"the message, or the text to continue; {STDIN}: standard input")
    add(
        "--model",
        default="",
        metavar="NAME",
        help="smollm2-135m, a Hugging Face directory or id, or a GGUF file; default: the model "
        "that the adapter names, smollm2-135m without an adapter",
    )
    add("--adapter", default="", metavar="DIR", help="an adapter's directory, or a run's folder")
    add("--tokenizer", default="", metavar="DIR", help="a directory with another tokenizer.json")
    add("--max-new-tokens", type=ranged("--max-new-tokens", int, COUNT), default=256, metavar="N")
    text = "0: the most likely token"
    add(
        "--temperature",
        type=ranged("--temperature", float, Range(0)),
        default=0.0,
        metavar="T",
        help=text,
    )
    text = "only the K best tokens; 0: all"
    add("--top-k", type=ranged("--top-k", int, WHOLE), default=0, metavar="K", help=text)
    text = "only the nucleus of probability P"
    add(
        "--top-p",
        type=ranged("--top-p", float, Range(0, 1, "(]")),
        default=1.0,
        metavar="P",
        help=text,
    )
    add("--seed", type=ranged("--seed", int, SEEDS), default=0, help="seed of the drawn tokens")
    add("--system", default="", metavar="TEXT", help="a system message")
    add("--no-chat", action="store_true", help="the prompt as it is, without a chat template")
    add(
        "--weights",
        default="float32",
        choices=["float32", "bfloat16"],
        help="type of the weights in memory",
    )
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="type of the computation",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command line; return its exit code."""
    args = parser().parse_args(argv[1:])
    from flaxae.decoding import Sampling

    sampled = args.temperature > 0
    for name, value, off in (("top-k", args.top_k, 0), ("top-p", args.top_p, 1.0)):
        require(sampled or value == off, f"--{name} draws tokens: give --temperature too")
    sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    prompt = _read_stdin() if args.prompt == STDIN else args.prompt
    for name, text in (("the prompt", prompt), ("--system", args.system)):
        fault = unicode_fault(text)
        require(not fault, f"{name}: {fault}")
    try:
        for piece in run(args, prompt, sampling):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    print()
    return 0


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the prompt on standard input is not UTF-8 (byte {error.start}): convert it first, for"
            " example with iconv -t utf-8"
        ) from None


def run(args: argparse.Namespace, prompt: str, sampling: Any) -> Iterator[str]:
    """Load the model that the command line names, and yield pieces of the answer."""
    import jax

    from flaxae.lm.generation import Streamer

    lm = open_model(args)
    task = task_of(args.adapter) if args.adapter else None
    ids = prompt_ids(lm, prompt, chat=not args.no_chat, system=args.system, task=task)
    model, tokenizer = lm.model, lm.tokenizer
    assert tokenizer is not None  # `prompt_ids` has checked it
    if args.adapter:
        from flaxae import peft

        model = peft.load_adapter(model, args.adapter)
    # On a CPU a scan in the loop would copy all weights for every token.
    unroll = jax.default_backend() == "cpu"
    streamer = Streamer(
        model,
        sampling,
        num_tokens=tokenizer.vocab_size,
        ends=ends(lm, not args.no_chat, args.system, task),
        unroll=unroll,
    )
    yield from texts(tokenizer, streamer(ids, args.max_new_tokens, args.seed))


if __name__ == "__main__":
    sys.exit(run_main(main))
