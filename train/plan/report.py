"""Plans in words: a report of one, a ranking of several, and the table of all configs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxmodels.plan import Plan, Traffic
from jaxmodels.plan.search import time_of

FOOTER = (
    "Memory is the compiler's own account. FLOPs are of matrix products and convolutions: by "
    "formula from the traced step,\n"
    "each as often as it runs, rematerialisation left out; compiled, from the compiled program, "
    "loops unrolled. Times are\n"
    "estimates from below: data-sheet rates, everything overlapping, no latency "
    "(jaxmodels/plan/cost.py, jaxmodels/plan/chips.py)."
)


def report(plan: Plan, *, name: str, data: str, accumulate: int) -> str:
    """Describes one plan in lines.

    Args:
      name: name of the config.
      data: where the shapes are from, in words.
      accumulate: number of micro-batches.
    """
    mesh = mesh_text(plan.mesh)
    shapes = ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in plan.batch.items() if len(v) > 1)
    lines = [
        f"{name} on {plan.topology} ({plan.devices} devices), mesh {mesh}",
        f"  data         {data}: {shapes}; {accumulate} micro-batch(es) a step",
        f"  parameters   {plan.parameters:,}; state of a device {size(plan.memory.state)}",
        f"  memory       {memory_text(plan)}",
    ]
    if plan.compiled_flops is None:
        return "\n".join([*lines, *(f"  warning      {one}" for one in plan.warnings)])
    memory, whole = plan.memory, plan.compiled_flops * plan.devices
    lines += [
        f"               arguments {size(memory.arguments)} + temporaries "
        f"{size(memory.temporaries)} + outputs {size(memory.outputs)} - outputs that reuse "
        f"arguments {size(memory.aliased)} + code {size(memory.code)}",
        f"  operations   {number(plan.model_flops)}FLOP a step by formula; compiled "
        f"{number(plan.compiled_flops)}FLOP on each device, {whole / max(plan.model_flops, 1):.2f} "
        "times the formula in all",
        f"               (the compiler's cost analysis: {number(plan.analysis_flops)}FLOP on each "
        "device, bodies of loops once, all operations)",
    ]
    if plan.kernels:
        lines.append(
            f"               {plan.kernels} executions of kernels, whose operations are not in the "
            "compiled ones"
        )
    if None in plan.loops:
        lines.append(
            f"               {plan.loops.count(None)} loop(s) of unknown length count once"
        )
    lines += [
        f"  {'collectives' if i == 0 else '':<12} {traffic_text(t)}"
        for i, t in enumerate(plan.collectives)
    ]
    if not plan.collectives:
        lines.append("  collectives  none")
    if roof := plan.roofline:
        lines += [
            f"  step         at least {milliseconds(roof.seconds)} by the roofline, bound by "
            f"{roof.bound}; MFU at most {roof.mfu:.0%} (estimates)",
            f"               compute {milliseconds(roof.compute)}, memory "
            f"{milliseconds(roof.memory)}, ICI {milliseconds(roof.ici)}, DCN "
            f"{milliseconds(roof.dcn)}",
        ]
    else:
        lines.append(
            "  step         no estimate: CPUs stand in, and the compiler of a TPU or GPU does "
            "otherwise"
        )
    lines.append(f"  compiled     in {plan.compile_seconds:.1f} s")
    return "\n".join([*lines, *(f"  warning      {one}" for one in plan.warnings)])


def memory_text(plan: Plan) -> str:
    """Says whether a step fits, and by how much."""
    peak, limit = plan.memory.peak, plan.memory.limit
    if limit is None:
        return f"{size(peak)} at most; CPUs have no limit to compare it with"
    if plan.fits:
        return f"fits: {size(peak)} of {size(limit)} on each device, {1 - peak / limit:.0%} left"
    over = (
        f"{size(peak)} of {size(limit)}, {size(peak - limit)} too much"
        if peak and peak > limit
        else size(limit)
    )
    return f"DOES NOT FIT: {over}: {plan.reason}"


def way_out_text(found: Plan | None, tried: Sequence[Plan], asked: Plan) -> str:
    """Says which change makes a step fit that does not."""
    count = (
        f"found by compiling {sum(p.compile_seconds > 0 for p in tried)} of {len(tried)} candidates"
    )
    if found is None:
        return (
            f"way out      none among {len(tried)} candidates: rematerialisation, micro-batches, "
            "meshes, larger slices"
        )
    flags = " ".join(f"--config.{key}={value}" for key, value in found.settings.items())
    where = f"--topology={found.topology} " if found.topology != asked.topology else ""
    return f"way out      {where}{flags}: {memory_text(found)}; {count}"


def ranking(plans: Sequence[Plan], left: int) -> str:
    """Ranks the plans of a search in a table."""
    lines = ["rank  step at least  bound    MFU at most  memory     settings"]
    for i, plan in enumerate(plans, 1):
        flags = (
            " ".join(f"--config.{k}={v}" for k, v in plan.settings.items())
            or "(the config as it stands)"
        )
        roof = plan.roofline
        step = milliseconds(time_of(plan)) if roof else "-"
        lines.append(
            f"{i:<5} {step:<14} {roof.bound if roof else '-':<8} "
            f"{f'{roof.mfu:.0%}' if roof else '-':<12} {size(plan.memory.peak):<10} {flags}"
        )
    if left:
        lines.append(f"{left} group(s) of candidates were not tried; --limit=N tries more")
    return "\n".join([*lines, FOOTER])


def traffic_text(one: Traffic) -> str:
    """Describes one kind of collective."""
    seconds = f", {milliseconds(one.seconds)}" if one.seconds else ""
    return (
        f"{one.kind} {one.count}x over {one.network}, {size(one.bytes)} sent by each "
        f"device{seconds}"
    )


def mesh_text(mesh: dict[str, int]) -> str:
    """``data 1 x fsdp 16 x tensor 1``."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items())


def size(value: float | int | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "?"
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= one:
            return f"{value / one:.2f} {unit}"
    return f"{value:.0f} B"


def number(value: float | int | None) -> str:
    """With a decimal prefix: ``1.37 T``."""
    for unit, one in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value and value >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value or 0:.0f} "


def milliseconds(seconds: float) -> str:
    """With three digits."""
    return f"{seconds * 1e3:.3g} ms"


def update_table(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Renews rows of a Markdown table of plans and of the JSON file beside it, and keeps the
    others.

    Args:
      path: of the table; its JSON has the same name but for the suffix.
      rows: name of a config -> its plan as JSON.
    """
    data = path.with_suffix(".json")
    known = json.loads(data.read_text()) if data.exists() else {}
    known = dict(sorted((known | rows).items()))
    data.write_text(json.dumps(known, indent=1) + "\n")
    path.write_text(table(known))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The Markdown page of all configs."""
    lines = [
        "# Plans",
        "",
        "Every config, its training step compiled ahead of time for a TPU slice by `python -m "
        "train.plan --table`;",
        "none of this ran on a TPU.",
        "",
        *FOOTER.splitlines(),
        "",
        "| config | slice | mesh | parameters | memory of a device | FLOPs a step by formula | "
        "compiled / formula | collectives, sent by each device | step at least | bound by | MFU at "
        "most |",
        "|" + " --- |" * 11,
    ]
    for name, row in rows.items():
        roof, memory = row["roofline"] or {}, row["memory"]
        mesh = " x ".join(f"{axis} {n}" for axis, n in row["mesh"].items() if n > 1) or "one device"
        sent = (
            "; ".join(f"{t['kind']} {t['count']}x {size(t['bytes'])}" for t in row["collectives"])
            or "none"
        )
        compiled = (row["compiled_flops"] or 0) * row["devices"] / max(row["model_flops"], 1)
        cells = [
            f"`{name}`",
            row["topology"],
            mesh,
            f"{row['parameters']:,}",
            f"{size(row['peak'])} of {size(memory['limit'])}"
            + ("" if row["fits"] else ": does not fit"),
            number(row["model_flops"]).strip(),
            f"{compiled:.2f}",
            sent,
            milliseconds(roof["seconds"]) if roof else "-",
            roof.get("bound", "-"),
            f"{roof['mfu']:.0%}" if roof else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
