"""Reads products, traffic to memory and collectives of a compiled program from its HLO text.

Bodies of loops count as often as they run; XLA's own ``cost_analysis`` counts them once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxmodels.plan.flops import meeting

Groups = tuple[tuple[int, ...], ...]
"""Groups of devices, by their place in the mesh, that a collective joins."""

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

KERNELS = ("tpu_custom_call", "mosaic_gpu_v2", "__gpu$xla.gpu.triton")
"""Targets of calls to kernels that Pallas compiled."""

BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Bits of types whose name does not end with their number of bits."""


@dataclass(frozen=True)
class Shape:
    """The shape of one array of a program.

    Attributes:
      fast: the array lies in memory on the core, not in the chip's main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> int:
        number = re.search(r"\d+", self.dtype)
        bits = BITS.get(self.dtype, int(number.group()) if number else 32)
        return math.ceil(math.prod(self.dims) * bits / 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a program; ``rest`` is the text behind its operands."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str  # of the operands
    rest: str
    root: bool


@dataclass(frozen=True)
class Collective:
    """One collective operation, ``times`` executed.

    ``bytes`` is the size, on one device, of the whole array: the gathered result, or the array that
    is reduced or exchanged. Hosts do the collectives between slices of TPUs. One of these joins a
    device with those at its place in the other slices and names no groups; its ``bytes`` are those
    that a device hands over.
    """

    kind: str
    bytes: int
    groups: Groups
    times: int
    across: bool = False  # slices

    @property
    def size(self) -> int:
        """Devices in a group."""
        return max(map(len, self.groups), default=1)


@dataclass(frozen=True)
class Program:
    """The work of one device in one execution.

    Attributes:
      flops: FLOPs of products and convolutions; loop bodies count as often as they run.
      memory_bytes: bytes that operations read from and write to main memory, each reading its
        operands anew.
      loops: times that each loop runs; None where the text does not say, and then it counts once.
      kernels: executions of hand-written kernels, in whose operations the text gives no insight.
    """

    flops: float
    memory_bytes: float
    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]
    kernels: int = 0


def read_program(text: str, devices: int) -> Program:
    """Reads the text of a compiled program for ``devices`` devices."""
    computations, entry = parse(text)
    times: Counter[str] = Counter({entry: 1})
    fused, loops = set(), []
    for name in reversed(computations):  # those that are called stand before those that call
        for one in computations[name]:
            repeat = 1
            if one.opcode == "while" and times[name]:
                loops.append(_rounds(one, computations))
                repeat = loops[-1] or 1
            for callee in _called(one):
                times[callee] += times[name] * repeat
                if one.opcode == "fusion" or name in fused:
                    fused.add(callee)
    flops = memory = kernels = 0
    collectives, seen = [], set()
    for name, body in computations.items():
        if not times[name]:
            continue
        known = {one.name: one for one in body}
        for one in body:
            flops += times[name] * _flops(one, known)
            kernels += times[name] * any(
                f'custom_call_target="{target}"' in one.rest for target in KERNELS
            )
            if name not in fused:
                memory += times[name] * _memory(one, known, computations)
            transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
            if one.opcode == "send" and transfer:
                kind, size = (
                    transfer.group(1).lower().replace("_", "-"),
                    known[one.operands[0]].shapes[0].bytes,
                )
                collectives.append(Collective(kind, size, (), times[name], across=True))
            kind = one.opcode.removesuffix("-start")
            if kind in KINDS:
                chain = re.search(r'chain_id="(\d+)"', one.rest)
                if chain and (chain.group(1), _attribute(one, "channel_id")) in seen:
                    continue  # the same operation again, in fusions that overlap it with products
                if chain:
                    seen.add((chain.group(1), _attribute(one, "channel_id")))
                collectives.append(
                    _collective(kind, one, body, known, name in fused, times[name], devices)
                )
    return Program(
        float(flops),
        float(memory),
        tuple(c for c in collectives if c.across or c.size > 1),
        tuple(loops),
        kernels,
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Computations by name, as they stand in the text, and the name of the first that runs."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            current = computations.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line == "}" or line.startswith("}, "):
            # other lines that begin so go on with what a kernel says of itself
            current = None
        elif current is not None and (found := re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)):
            current.append(_instruction(found.group(2), line[found.end() :], bool(found.group(1))))
    return computations, entry


def _instruction(name: str, text: str, root: bool) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    start = text.index("(", end)
    stop = _closing(text, start)
    operands = text[start + 1 : stop]
    opcode, shapes = text[end:start].strip(), tuple(_shapes(text[:end]))
    # one that runs beside others, on GPUs: ((operands), results, context)
    if opcode == "fusion-start":
        opcode, shapes = "fusion", tuple(_shapes(text[_closing(text, 1) : end]))[:-1]
    return Instruction(
        name=name,
        opcode=opcode,
        shapes=shapes,
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        text=operands,
        rest=text[stop + 1 :],
        root=root,
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at ``start`` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"unbalanced parentheses: {text[start : start + 80]}")


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, dims, layout in re.findall(r"([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?", text):
        sizes = tuple(int(n.lstrip("<=")) for n in dims.split(",") if n)
        yield Shape(dtype, sizes, bool(re.search(r"S\([1-9]", layout)))


def _attribute(one: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", one.rest)
    return found.group(1) if found else ""


def _called(one: Instruction) -> list[str]:
    """Names the computations that run when this does, except the few operations inside a
    reduction."""
    names = [
        _attribute(one, key)
        for key in ("calls", "body", "condition", "true_computation", "false_computation")
    ]
    if one.opcode == "call":
        names.append(_attribute(one, "to_apply"))
    if branches := re.search(r"branch_computations=\{([^}]*)\}", one.rest):
        names += re.findall(r"%([\w.\-]+)", branches.group(1))
    return [name for name in names if name]


def _rounds(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """Number of rounds of a loop, by its backend or by its condition ``i < n`` with i from 0; None
    if neither says it."""
    if found := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(found.group(1))
    body = computations.get(_attribute(loop, "condition"), [])
    (root,) = [one for one in body if one.root] or [None]
    if root is not None and root.opcode == "fusion":  # the comparison alone, fused
        body = body + computations.get(_attribute(root, "calls"), [])
        (root,) = [one for one in computations.get(_attribute(root, "calls"), []) if one.root] or [
            None
        ]
    limits = {
        int(one.text)
        for one in body
        if one.opcode == "constant" and re.fullmatch(r"-?\d+", one.text)
    }
    if (
        root is None
        or root.opcode != "compare"
        or "direction=LT" not in root.rest
        or len(limits) != 1
    ):
        return None
    return limits.pop()


def _flops(one: Instruction, known: dict[str, Instruction]) -> int:
    if one.opcode not in ("dot", "convolution"):
        return 0
    left, right = (known[name].shapes[0].dims for name in one.operands[:2])
    out = one.shapes[0].dims
    if one.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        contracted = [int(i) for i in found.group(1).split(",") if i] if found else []
        return 2 * math.prod(out) * math.prod(left[i] for i in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    lhs, rhs, result = labels.groups() if labels else ("bf", "io", "bf")
    window = {
        key: value.split("x") for key, value in re.findall(r"(\w+)=([\dx_\-]+)", _window(one))
    }
    met = 1
    for d in (c for c in lhs if c.isdigit()):
        n = int(d)
        low = window["pad"][n].split("_")[0] if "pad" in window else 0
        stride, dilation, window_dilation = (
            int(window[key][n]) if key in window else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        sizes = left[lhs.index(d)], right[rhs.index(d)], out[result.index(d)]
        met *= meeting(*sizes, stride, int(low), dilation, window_dilation)
    groups = int(_attribute(one, "feature_group_count") or 1) * int(
        _attribute(one, "batch_group_count") or 1
    )
    return 2 * met * left[lhs.index("b")] * left[lhs.index("f")] * right[rhs.index("o")] // groups


def _window(one: Instruction) -> str:
    found = re.search(r"window=\{([^}]*)\}", one.rest)
    return found.group(1) if found else ""


FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
)
"""Operations that move nothing, or whose insides are counted."""


def _memory(
    one: Instruction, known: dict[str, Instruction], computations: dict[str, list[Instruction]]
) -> int:
    """Bytes of main memory that an operation reads and writes; only the slice where it slices."""
    if (
        one.opcode in FREE
        or one.opcode.endswith("-done")
        or one.opcode in ("partition-id", "replica-id", "iota")
    ):
        return 0
    if 'custom_call_target="AllocateBuffer"' in one.rest:
        return 0
    operands = [_bytes(known[name].shapes) if name in known else 0 for name in one.operands]
    if one.opcode in ("copy-start", "slice-start"):  # (target, source, ...), (source, target, ...)
        source, target = (0, 1) if one.opcode == "slice-start" else (1, 0)
        moved = one.shapes[target].bytes
        return moved * (not one.shapes[source].fast) + moved * (not one.shapes[target].fast)
    result = _bytes(one.shapes)
    if one.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * result
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if one.opcode == "fusion":
        body = computations.get(_attribute(one, "calls"), [])
        for parameter in (i for i in body if i.opcode == "parameter"):
            n = int(parameter.text)
            if n < len(operands) and operands[n]:
                operands[n] = min(
                    operands[n], _read(parameter.name, body, computations, operands[n])
                )
        result = sum(_written(one, body))
    return sum(operands) + result


def _read(
    name: str, body: list[Instruction], computations: dict[str, list[Instruction]], whole: int
) -> int:
    """Bytes of an array that the body of a fusion reads: only the slices where it slices, nothing
    where it updates."""
    found = 0
    for user in (i for i in body if name in i.operands):
        if user.opcode in ("dynamic-slice", "slice"):
            found += sum(s.bytes for s in user.shapes)
        elif user.opcode == "bitcast":
            found += _read(user.name, body, computations, whole)
        elif user.opcode == "fusion":
            inner = computations.get(_attribute(user, "calls"), [])
            places = {str(n) for n, operand in enumerate(user.operands) if operand == name}
            inside = [i.name for i in inner if i.opcode == "parameter" and i.text in places]
            found += sum(_read(parameter, inner, computations, whole) for parameter in inside)
        elif user.opcode != "dynamic-update-slice" or name != user.operands[0]:
            return whole
    return min(found, whole)


def _written(fusion: Instruction, body: list[Instruction]) -> Iterator[int]:
    """Bytes of each result of a fusion. A result that is updated in place counts as its update."""
    known = {i.name: i for i in body}
    root = next((i for i in body if i.root), None)
    outputs = () if root is None else root.operands if root.opcode == "tuple" else (root.name,)
    for n, shape in enumerate(fusion.shapes):
        output = known.get(outputs[n]) if len(outputs) == len(fusion.shapes) else None
        while output is not None and output.opcode == "bitcast":
            output = known.get(output.operands[0])
        if (
            output is not None
            and output.opcode == "dynamic-update-slice"
            and output.operands[1] in known
        ):
            yield 0 if shape.fast else sum(s.bytes for s in known[output.operands[1]].shapes)
        else:
            yield 0 if shape.fast else shape.bytes


def _bytes(shapes: tuple[Shape, ...]) -> int:
    return sum(s.bytes for s in shapes if not s.fast)


def _collective(
    kind: str,
    one: Instruction,
    body: list[Instruction],
    known: dict[str, Instruction],
    fused: bool,
    times: int,
    devices: int,
) -> Collective:
    size = sum(s.bytes for name in one.operands for s in known[name].shapes)
    if kind == "all-reduce" and fused and any(i.opcode == "dynamic-slice" for i in body):
        kind = "reduce-scatter"  # as the TPU's compiler writes it
    groups = read_groups(one.rest, devices)
    if kind == "all-gather":
        size *= max(map(len, groups), default=1)
    return Collective(kind, size, groups, times)


def read_groups(text: str, devices: int) -> Groups:
    """Reads the groups of a collective, in any of XLA's notations; all devices where it names
    none."""
    if found := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return tuple(
            tuple(map(int, pair.split(",")))
            for pair in re.findall(r"\{(\d+,\d+)\}", found.group(1))
        )
    if found := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", text):
        return tuple(
            tuple(map(int, group.split(",")))
            for group in re.findall(r"\{([\d,]+)\}", found.group(1))
        )
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, source, order = (_numbers(g) for g in found.groups())
        return _rows(
            np.arange(math.prod(source)).reshape(source).transpose(order or None).reshape(shape)
        )
    pattern = (
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{([^}]*)\}"
    )
    if found := re.search(pattern, text):
        axes, source, order, chosen = found.groups()
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
        ids = np.arange(math.prod(sizes.values()))
        if source:
            ids = ids.reshape(_numbers(source)).transpose(_numbers(order) or None)
        # an axis of which only a part is joined is three: before, joined, behind
        split, names = [], []
        parts = {
            name: (pre, size)
            for name, pre, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
        }
        for name, size in sizes.items():
            before, joined = (int(n) if n else 0 for n in parts.get(name, ("", "")))
            whole = (
                [(name, size)]
                if not joined
                else [("", before), (name, joined), ("", size // before // joined)]
            )
            split += [n for _, n in whole]
            names += [name if label in parts else "" for label, _ in whole]
        ids = ids.reshape(split)
        joined_axes = [i for i, name in enumerate(names) if name]
        rest = [i for i, name in enumerate(names) if not name]
        return _rows(
            ids.transpose(rest + joined_axes).reshape(-1, math.prod(split[i] for i in joined_axes))
        )
    return (tuple(range(devices)),)


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def _rows(array: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in array)
