"""Costs of a compiled program from its text (HLO), with the trip counts of its loops.

XLA's cost analysis counts the body of a loop once, however often it runs. Here XLA analyses each
loop's body separately, and the result is multiplied by the trip count that the condition implies.
"""

import dataclasses
import importlib
import re
from functools import cached_property
from typing import Any

from flaxae.errors import ConfigError
from flaxae.tpu_compile.collectives import COLLECTIVES, Collective, make_collective
from flaxae.tpu_compile.instructions import Instruction, parse_instructions

_HEAD = re.compile(r"^(ENTRY )?(%\S+) \(.*\{$")
_METADATA = re.compile(r", metadata=\{[^{}]*\}")  # source lines in Python


class Program:
    """The parsed text of a compiled module.

    Attributes:
        blocks: text of each computation by its name; callees precede their callers.
        entry: name of the main computation.
        instructions: instructions of each computation.
        unknown_loops: loops whose trip count is not in the text; their bodies count once.
    """

    def __init__(self, text: str):
        """Parse the text.

        Args:
            text: `compiled.as_text()`.

        Raises:
            ConfigError: if it is not the text of a compiled module.
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
        self.instructions = {n: [*parse_instructions(block)] for n, block in self.blocks.items()}
        self.unknown_loops: list[str] = []

    @cached_property
    def loops(self) -> list[tuple[str, str, int]]:
        """(containing computation, body, trip count) of each loop."""
        out = []
        for name, instructions in self.instructions.items():
            for loop in instructions:
                if loop.opcode == "while":
                    count = self._trip_count(name, loop)
                    if count is None:
                        self.unknown_loops.append(loop.name)
                    out.append((name, loop.attribute("body"), 1 if count is None else count))
        return out

    @cached_property
    def times(self) -> dict[str, int]:
        """The number of executions of each computation in one run of the program."""
        trips = {body: count for _, body, count in self.loops}
        out = {self.entry: 1}
        # Callees precede their callers in the text.
        for name in reversed(self.blocks):
            if name not in out:
                continue
            for instruction in self.instructions[name]:
                for callee in instruction.called:
                    out[callee] = max(out.get(callee, 0), out[name] * trips.get(callee, 1))
        return out

    def cost(self) -> dict[str, float]:
        """Return XLA's flops and bytes of the whole program.

        Returns:
            "flops" and "bytes"; and "flops_once" and "bytes_once", which count each body once.
        """
        once = self._analyse(self.entry)
        total = dict(once)
        for inside, body, count in self.loops:
            if not self.times.get(inside) or count <= 1:
                continue
            # Loops inside of the body add their own cost.
            extra = self._analyse(body)
            factor = self.times[inside] * (count - 1)
            for key, value in extra.items():
                total[key] += factor * value
        return {"flops_once": once["flops"], "bytes_once": once["bytes"], **total}

    def collectives(self, mesh_shape: dict[str, int]) -> list[Collective]:
        """Return all messages between chips.

        Several messages may share a channel, so channels do not identify them.

        Args:
            mesh_shape: size of each mesh axis, in the mesh's order.
        """
        found: list[Collective] = []
        for name, instructions in self.instructions.items():
            for instruction in instructions:
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES or not self.times.get(name):
                    continue
                scattered = kind == "all-reduce" and name.startswith("%all-reduce-scatter")
                if scattered:  # how TPU programs write a reduce-scatter
                    kind = "reduce-scatter"
                found.append(
                    make_collective(
                        instruction, kind, mesh_shape, self.times[name], whole=scattered
                    )
                )
        return found

    def _trip_count(self, inside: str, loop: Instruction) -> int | None:
        """Return the trip count of a loop that counts up to a constant; None if unknown."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = self.instructions[loop.attribute("condition")]
        by_name = {x.name: x for x in condition}
        root = condition[-1]
        if root.opcode == "fusion":  # a fusion of the comparison only
            root = self._unfused(root)
        if root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        counter, limit = (by_name.get(x) for x in root.operands[:2])
        end = limit.constant if limit else None
        if counter is None or end is None or counter.opcode != "get-tuple-element":
            return None
        index = int(counter.attribute("index"))
        start = self._start(inside, loop, index)
        step = self._step(loop.attribute("body"), index)
        if start is None or not step:
            return None
        return max(0, -(-(end - start) // step))

    def _unfused(self, fusion: Instruction) -> Instruction:
        """Return a fusion's last instruction, with the fusion's operands for its parameters."""
        called, operands = self.instructions[fusion.called[0]], fusion.operands
        names = {
            x.name: operands[int(x.rest.split(")")[0])] for x in called if x.opcode == "parameter"
        }
        rest = re.sub(r"%[\w.\-]+", lambda m: names.get(m[0], m[0]), called[-1].rest)
        return dataclasses.replace(called[-1], rest=rest)

    def _resolve(self, by_name: dict[str, Instruction], name: str) -> Instruction | None:
        """Return the instruction that produces a value, skipping copies."""
        found = by_name.get(name)
        while found is not None and found.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            found = by_name.get(found.operands[0])
        return found

    def _start(self, inside: str, loop: Instruction, index: int) -> int | None:
        """Return the initial value of a loop's counter, the given element of its state."""
        by_name = {x.name: x for x in self.instructions[inside]}
        init = self._resolve(by_name, loop.operands[0])
        if init is None or init.opcode != "tuple":
            return None
        start = self._resolve(by_name, init.operands[index])
        return start.constant if start else None

    def _step(self, body: str, index: int) -> int | None:
        """Return the increment of a loop's counter, the given element of its state."""
        by_name = {x.name: x for x in self.instructions[body]}
        root = self._resolve(by_name, self.instructions[body][-1].name)
        if root is None or root.opcode != "tuple":
            return None
        new = self._resolve(by_name, root.operands[index])
        if new is None:
            return None
        if new.opcode == "fusion":
            inner = self.instructions[new.called[0]]
            found = [*inner, *(self._resolve(by_name, x) for x in new.operands)]
            found = [x.constant for x in found if x and x.constant is not None]
            return found[0] if inner[-1].opcode == "add" and len(found) == 1 else None
        if new.opcode != "add":
            return None
        found = [self._resolve(by_name, x) for x in new.operands]
        return next((x.constant for x in found if x and x.constant is not None), None)

    def _analyse(self, computation: str) -> dict[str, float]:
        """Return XLA's analysis of one computation, as if it were the whole program."""
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
    """Return XLA's cost analysis, its parser and a client; in jaxlib they are private."""
    import jax

    try:
        cost: Any = importlib.import_module("jaxlib._jax").hlo_module_cost_analysis
        parse: Any = importlib.import_module("jaxlib._hlo").hlo_module_from_text
        return cost, parse, jax.devices("cpu")[0].client
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"this jaxlib has no XLA cost analysis where it is expected ({error}): install the"
            " version of constraints.txt"
        ) from error
