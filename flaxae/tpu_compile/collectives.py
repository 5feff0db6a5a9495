"""Messages between chips: their kind, size, and the mesh axes that they run over."""

import dataclasses
import re

import numpy as np

from flaxae.tpu_compile.instructions import Instruction

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8} | {
    f"{sign}{bits}": max(bits // 8, 1) for sign in "su" for bits in (4, 8, 16, 32, 64)
}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A message between chips.

    Attributes:
        kind: one of COLLECTIVES.
        axis: mesh axes that it runs over, joined by "+".
        size: bytes of the whole array that it gathers or reduces.
        sent: bytes that each chip sends if the chips form a ring.
        times: number of executions per run of the program.
        dtype: element type of the result.
        shape: shape of the result.
    """

    kind: str
    axis: str
    size: float
    sent: float
    times: int
    dtype: str
    shape: tuple[int, ...]


def make_collective(
    instruction: Instruction, kind: str, mesh_shape: dict[str, int], times: int, whole: bool
) -> Collective:
    """Read a message from its instruction.

    Args:
        instruction: the instruction.
        kind: one of COLLECTIVES.
        mesh_shape: size of each mesh axis, in the mesh's order.
        times: number of executions per run of the program.
        whole: whether a reduce-scatter's shape is that of the whole array, not of a chip's part.
    """
    shapes = [
        (dtype, tuple(int(x) for x in dims.split(",") if x))
        for dtype, dims in _SHAPE.findall(instruction.shape)
        if dtype in _BYTES
    ]
    if (
        instruction.opcode.endswith("-start") and len(shapes) > 1
    ):  # the shape lists operands, then results
        data = [s for s in shapes if s[1]]
        shapes = data[len(data) // 2 :] or shapes[:1]
    size = float(sum(_BYTES[dtype] * np.prod(dims, dtype=float) for dtype, dims in shapes))
    axis, members = _axis(instruction.rest, kind, mesh_shape)
    if kind == "reduce-scatter" and not whole:
        size *= members
    share = (members - 1) / max(members, 1)
    sent = size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    dtype, dims = shapes[0] if shapes else ("", ())
    return Collective(kind, axis, size, sent, times, dtype, dims)


def _axis(rest: str, kind: str, mesh_shape: dict[str, int]) -> tuple[str, int]:
    """Return the mesh axes of a collective's groups, and the number of chips per group."""
    sizes = tuple(mesh_shape.values())
    ids = np.arange(int(np.prod(sizes)))
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
        numbers = [int(x) for x in re.findall(r"\d+", pairs[1])] if pairs else [0, 0]
        groups = np.asarray(numbers).reshape(-1, 2)
    else:
        groups = _groups(rest, ids)
    positions = np.stack(np.unravel_index(groups, sizes), axis=-1)  # (groups, members, axes)
    varies = (positions != positions[:, :1]).any(axis=(0, 1))
    return "+".join(n for n, v in zip(mesh_shape, varies, strict=True) if v) or "-", groups.shape[1]


def _groups(rest: str, ids: np.ndarray) -> np.ndarray:
    """Parse replica_groups in any of its three notations, (groups, members)."""
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
