"""Costs of a compiled program with its loops' trip counts, from the program's own text.

XLA's cost analysis counts the body of a loop once, however often it runs. Here each loop's body is
analysed by itself, by XLA too, and counted as often as its condition says.
"""

import dataclasses
import importlib
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from flaxae.errors import ConfigError

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8} | {
    f"{sign}{bits}": max(bits // 8, 1) for sign in "su" for bits in (4, 8, 16, 32, 64)
}
_HEAD = re.compile(r"^(ENTRY )?(%\S+) \(.*\{$")
_OPCODE = re.compile(r"^(?:ROOT )?(%\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=")
_METADATA = re.compile(r", metadata=\{[^{}]*\}")  # where in Python a line comes from
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        tails = _CALLED.split(self.rest)[1:]
        return [n for t in tails for n in re.findall(r"%[\w.\-]+", re.split(r"[}]|, \w+=", t)[0])]

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%[\w.\-]+", self.rest.split(")")[0])

    def attribute(self, name: str) -> str:
        found = re.search(rf"{name}=(%[\w.\-]+|\d+)", self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """A message between chips.

    Attributes:
        kind: one of COLLECTIVES.
        axis: mesh axes that it runs over, joined by "+".
        size: bytes of what it gathers or reduces, whole.
        sent: bytes that a chip sends, by a ring.
        times: how often it runs a step.
        dtype, shape: of what comes out.
    """

    kind: str
    axis: str
    size: float
    sent: float
    times: int
    dtype: str
    shape: tuple[int, ...]


class Program:
    """The text of a compiled module, taken apart.

    Attributes:
        unknown: loops whose number of turns is not in the text; their bodies count once.
    """

    def __init__(self, text: str):
        """Reads the text.

        Args:
            text: `compiled.as_text()`.
        """
        text = _METADATA.sub("", text)
        self.blocks: dict[str, str] = {}
        self.entry = ""
        lines: list[str] = []
        name = ""
        for line in text.splitlines():
            if head := _HEAD.match(line):
                name, lines = head[2], []
                self.entry = name if head[1] else self.entry
            if name:
                lines.append(line)
            if line == "}":
                self.blocks[name], name = "\n".join(lines), ""
        if not self.entry:
            raise ConfigError("this is not the text of a compiled module: it has no ENTRY")
        self.instructions = {n: [*_instructions(block)] for n, block in self.blocks.items()}
        self.unknown: list[str] = []

    @cached_property
    def loops(self) -> list[tuple[str, str, int]]:
        """(computation that a loop is in, its body, its turns)."""
        out = []
        for name, instructions in self.instructions.items():
            for one in instructions:
                if one.opcode == "while":
                    turns = self._turns(name, one)
                    if turns is None:
                        self.unknown.append(one.name)
                    out.append((name, one.attribute("body"), 1 if turns is None else turns))
        return out

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs in one run of the program."""
        turns: dict[str, int] = {}
        for _, body, count in self.loops:
            turns[body] = count
        out = {self.entry: 1}
        # Callees stand before their callers in the text.
        for name in reversed(self.blocks):
            if name not in out:
                continue
            for one in self.instructions[name]:
                for callee in one.called:
                    out[callee] = max(out.get(callee, 0), out[name] * turns.get(callee, 1))
        return out

    def cost(self) -> dict[str, float]:
        """XLA's flops and bytes of the whole program.

        Returns:
            "flops" and "bytes"; and "flops_once" and "bytes_once", which count each body once.
        """
        once = self._analysed(self.entry)
        total = dict(once)
        for inside, body, count in self.loops:
            if not self.times.get(inside) or count <= 1:
                continue
            # What is inside of the body's own loops is added by them.
            extra = self._analysed(body)
            factor = self.times[inside] * (count - 1)
            for key, value in extra.items():
                total[key] += factor * value
        return {"flops_once": once["flops"], "bytes_once": once["bytes"], **total}

    def collectives(self, mesh_shape: dict[str, int]) -> list[Collective]:
        """All messages between chips. (Several share a channel: it tells nothing.)

        Args:
            mesh_shape: axis name -> size, in the mesh's order.
        """
        found: list[Collective] = []
        for name, instructions in self.instructions.items():
            for one in instructions:
                kind = one.opcode.removesuffix("-start")
                if kind not in COLLECTIVES or not self.times.get(name):
                    continue
                scattered = kind == "all-reduce" and name.startswith("%all-reduce-scatter")
                if scattered:  # as TPU programs spell a reduce-scatter
                    kind = "reduce-scatter"
                times = self.times[name]
                found.append(_collective(one, kind, mesh_shape, times, whole=scattered))
        return found

    def _turns(self, inside: str, loop: Instruction) -> int | None:
        """Turns of a loop that counts up to a constant; None: it does not say."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = self.instructions[loop.attribute("condition")]
        by_name = {x.name: x for x in condition}
        root = condition[-1]
        if root.opcode == "fusion":  # the comparison alone, fused
            called = self.instructions[root.called[0]]
            inner, outer = called[-1], root.operands
            order = {
                x.name: outer[int(x.rest.split(")")[0])] for x in called if x.opcode == "parameter"
            }
            root = dataclasses.replace(
                inner, rest=re.sub(r"%[\w.\-]+", lambda m: order.get(m[0], m[0]), inner.rest)
            )
        if root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        counter, limit = (by_name.get(x) for x in root.operands[:2])
        end = self._constant(limit)
        if counter is None or end is None or counter.opcode != "get-tuple-element":
            return None
        index = int(counter.attribute("index"))
        start = self._start(inside, loop, index)
        step = self._step(loop.attribute("body"), index)
        if start is None or not step:
            return None
        return max(0, -(-(end - start) // step))

    def _constant(self, one: Instruction | None) -> int | None:
        if one is None or one.opcode != "constant":
            return None
        value = one.rest.split(")")[0]
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    def _resolve(self, by_name: dict[str, Instruction], name: str) -> Instruction | None:
        """What a value is, through copies."""
        one = by_name.get(name)
        while one is not None and one.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            one = by_name.get(one.operands[0])
        return one

    def _start(self, inside: str, loop: Instruction, index: int) -> int | None:
        by_name = {x.name: x for x in self.instructions[inside]}
        init = self._resolve(by_name, loop.operands[0])
        if init is None or init.opcode != "tuple":
            return None
        return self._constant(self._resolve(by_name, init.operands[index]))

    def _step(self, body: str, index: int) -> int | None:
        by_name = {x.name: x for x in self.instructions[body]}
        root = self._resolve(by_name, self.instructions[body][-1].name)
        if root is None or root.opcode != "tuple":
            return None
        new = self._resolve(by_name, root.operands[index])
        if new is None:
            return None
        if new.opcode == "fusion":
            inner = self.instructions[new.called[0]]
            constants = [self._constant(x) for x in inner]
            outer = [self._constant(self._resolve(by_name, x)) for x in new.operands]
            found = [x for x in (*constants, *outer) if x is not None]
            return found[0] if inner[-1].opcode == "add" and len(found) == 1 else None
        if new.opcode != "add":
            return None
        found = [self._constant(self._resolve(by_name, x)) for x in new.operands]
        return next((x for x in found if x is not None), None)

    def _analysed(self, computation: str) -> dict[str, float]:
        """XLA's own analysis of one computation, as if it were the whole program."""
        cost, parse, client = _xla()
        kept = []
        for name, block in self.blocks.items():
            block = block.removeprefix("ENTRY ")
            kept.append("ENTRY " + block if name == computation else block)
            if name == computation:
                break
        text = "HloModule part\n\n" + "\n\n".join(kept) + "\n"
        found = cost(client, parse(text))
        return {"flops": found.get("flops", 0.0), "bytes": found.get("bytes accessed", 0.0)}


def _xla() -> tuple[Any, Any, Any]:
    """XLA's cost analysis and parser. jaxlib keeps them for its own use: they may move."""
    import jax

    try:
        cost: Any = importlib.import_module("jaxlib._jax").hlo_module_cost_analysis
        parse: Any = importlib.import_module("jaxlib._hlo").hlo_module_from_text
        return cost, parse, jax.devices("cpu")[0].client
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"this jaxlib keeps XLA's cost analysis elsewhere ({error}); flaxae/tpu_compile/hlo.py"
            " was written for the versions in constraints.txt"
        ) from error


def _instructions(block: str) -> Iterable[Instruction]:
    for line in block.splitlines()[1:]:
        if found := _OPCODE.match(line.strip()):
            yield Instruction(*found.groups())


def _collective(
    one: Instruction, kind: str, mesh_shape: dict[str, int], times: int, whole: bool
) -> Collective:
    shapes = [
        (dtype, tuple(int(x) for x in dims.split(",") if x))
        for dtype, dims in _SHAPE.findall(one.shape)
        if dtype in _BYTES
    ]
    if one.opcode.endswith("-start") and len(shapes) > 1:  # (operands, results, …)
        data = [s for s in shapes if s[1]]
        shapes = data[len(data) // 2 :] or shapes[:1]
    size = float(sum(_BYTES[dtype] * np.prod(dims, dtype=float) for dtype, dims in shapes))
    axis, members = _axis(one.rest, kind, mesh_shape)
    if kind == "reduce-scatter" and not whole:
        size *= members
    share = (members - 1) / max(members, 1)
    sent = size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    dtype, dims = shapes[0] if shapes else ("", ())
    return Collective(kind, axis, size, sent, times, dtype, dims)


def _axis(rest: str, kind: str, mesh_shape: dict[str, int]) -> tuple[str, int]:
    """Which mesh axes a collective's groups run over, and how many chips a group has."""
    sizes = tuple(mesh_shape.values())
    ids = np.arange(int(np.prod(sizes)))
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
        numbers = [int(x) for x in re.findall(r"\d+", pairs[1])] if pairs else [0, 0]
        groups = np.asarray(numbers).reshape(-1, 2)
    else:
        groups = _groups(rest, ids)
    places = np.stack(np.unravel_index(groups, sizes), axis=-1)  # (groups, members, axes)
    varies = (places != places[:, :1]).any(axis=(0, 1))
    return "+".join(n for n, v in zip(mesh_shape, varies, strict=True) if v) or "-", groups.shape[1]


def _groups(rest: str, ids: np.ndarray) -> np.ndarray:
    """replica_groups of all three spellings, (groups, members)."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\](.*?) ?\{('.*?)\}", rest):
        names = re.findall(r"'(\w+)'=(\d+)", found[1])
        sizes, chosen = [int(size) for _, size in names], re.findall(r"'(\w+)'", found[3])
        grid = ids
        if order := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", found[2]):
            grid = ids.reshape([int(x) for x in order[1].split(",")])
            if order[2]:
                grid = grid.transpose([int(x) for x in order[2].split(",")])
        grid = grid.reshape(sizes)
        last = [i for i, (name, _) in enumerate(names) if name in chosen]
        first = [i for i in range(len(names)) if i not in last]
        return grid.transpose(first + last).reshape(-1, int(np.prod([sizes[i] for i in last])))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        grid = ids.reshape([int(x) for x in found[2].split(",")])
        if found[3]:
            grid = grid.transpose([int(x) for x in found[3].split(",")])
        return grid.reshape([int(x) for x in found[1].split(",")])
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        rows = re.findall(r"\{([\d,]*)\}", found[1])
        return np.asarray([[int(x) for x in row.split(",")] for row in rows if row])
    return ids[None]
