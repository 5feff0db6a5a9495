"""Instructions of a compiled program's text (HLO)."""

import dataclasses
import re
from collections.abc import Iterator

_LINE = re.compile(r"^(?:ROOT )?(%\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: its name, with "%".
        shape: shape of the result as written.
        opcode: such as "while" or "all-gather-start".
        rest: operands and attributes as written.
    """

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that the instruction calls."""
        parts = _CALLED.split(self.rest)[1:]
        return [n for p in parts for n in re.findall(r"%[\w.\-]+", re.split(r"[}]|, \w+=", p)[0])]

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%[\w.\-]+", self.rest.split(")")[0])

    @property
    def constant(self) -> int | None:
        """The value of an integer constant; None for other instructions."""
        if self.opcode != "constant":
            return None
        value = self.rest.split(")")[0]
        return int(value) if re.fullmatch(r"-?\d+", value) else None

    def attribute(self, name: str) -> str:
        """Return an attribute that is a name or a number; "" if there is none."""
        found = re.search(rf"{name}=(%[\w.\-]+|\d+)", self.rest)
        return found[1] if found else ""


def parse_instructions(block: str) -> Iterator[Instruction]:
    """Yield the instructions of one computation's text."""
    for line in block.splitlines()[1:]:
        if found := _LINE.match(line.strip()):
            yield Instruction(*found.groups())
