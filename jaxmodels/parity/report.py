"""A certificate as text, as a row of a Markdown table, and as one HTML page."""

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from jaxmodels.parity.extra import Figure, FigureCanvasAgg
from jaxmodels.parity.provenance import in_words
from jaxmodels.parity.record import BARS, FLOAT32_FACTOR, FLOAT32_FLOOR, Certificate

COLUMNS = (
    "model",
    "parameters",
    "logits",
    "gradients",
    "batch statistics",
    "AdamW",
    "SGD",
    "logits f32 (PyTorch)",
    "gradients f32 (PyTorch)",
    "weights",
    "train",
    "infer",
    "",
)


def summary(result: Certificate) -> str:
    """A certificate as aligned lines."""
    rows = [
        ("original", result.original),
        ("size", f"{_inputs(result)}, batch {result.batch_size}{_note(result)}"),
        (
            "parameters",
            f"{result.params:,}"
            + ("" if result.params_equal else f", the original {result.torch_params:,}"),
        ),
        ("logits", f"{_e(result.logits_rel_f64)} in float64 (bar {BARS['logits_rel_f64']:.0e})"),
        ("loss", f"{_e(result.loss_rel_f64)} in float64"),
        (
            "gradients",
            f"{_e(result.grad_rel_f64)} in float64 (bar {BARS['grad_rel_f64']:.0e}), worst "
            f"{result.worst_grad}"
            + (
                f"; {len(result.zero_gradients)} are zero by construction"
                if result.zero_gradients
                else ""
            ),
        ),
    ]
    if result.bn_rel_f64 is not None:
        rows.append(
            ("statistics", f"{_e(result.bn_rel_f64)} in float64 (bar {BARS['bn_rel_f64']:.0e})")
        )
    if result.blocks:
        worst = max(result.blocks, key=lambda d: (math.isnan(d.relative), d.relative))
        rows.append(
            (
                "layers",
                f"{len(result.blocks)} outputs compared, worst {_e(worst.relative)} in "
                f"{worst.ours}",
            )
        )
    for name, label in (("adamw", "AdamW"), ("sgd", "SGD")):
        if name in result.curves:
            steps = len(result.curves[name]["ours"])
            value = getattr(result, f"{name}_loss_rel_f64")
            rows.append(
                (
                    label,
                    f"{_e(value)} over {steps} losses in float64 (bar "
                    f"{BARS[f'{name}_loss_rel_f64']:.0e})",
                )
            )
    if result.logits_rel_f32 is not None:
        bar = f"bar {FLOAT32_FACTOR:g} times PyTorch's, tensor by tensor, floor {FLOAT32_FLOOR:.0e}"
        pairs = [("logits", result.logits_rel_f32, result.torch_logits_rel_f32)]
        pairs.append(("gradients", result.grad_rel_f32, result.torch_grad_rel_f32))
        if result.bn_rel_f32 is not None:
            pairs.append(("statistics", result.bn_rel_f32, result.torch_bn_rel_f32))
        text = ", ".join(f"{name} {_e(a)} (PyTorch {_e(b)})" for name, a, b in pairs)
        rows.append(
            ("float32", f"from float64, best of {result.float32_batches} batches: {text}; {bar}")
        )
    if result.bf16_logits_rel is not None:
        default = _e(result.default_precision_logits_rel)
        rows.append(
            (
                "precision",
                f"logits from float64: bfloat16 {_e(result.bf16_logits_rel)}, default {default}",
            )
        )
    rows.append(
        (
            "weights",
            "there and back bit for bit"
            if result.roundtrip_bitwise
            else "NOT the same after a round trip",
        )
    )
    rows.append(("norms", ", ".join(f"{k} {v:.3g}" for k, v in result.norms.items())))
    rows += _timing_rows(result.timings)
    if result.made:
        rows.append(("made", in_words(result.made)))
    rows.append(("result", "pass" if not result.failures else "FAIL"))
    rows += [("", failure) for failure in result.failures[:20]]
    return f"{result.model}\n" + "\n".join(f"  {name:<11} {text}" for name, text in rows)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Certificates, as their JSON values, as a Markdown table."""
    rows = []
    for r in results:
        f32 = (
            f"{_e(r[f'{k}_rel_f32'])} ({_e(r[f'torch_{k}_rel_f32'])})" for k in ("logits", "grad")
        )
        rows.append(
            (
                f"`{r['model']}`" + (f" ({r['note']})" if r["note"] else ""),
                f"{r['params']:,}" + ("" if r["params_equal"] else " (differs)"),
                _e(r["logits_rel_f64"]),
                _e(r["grad_rel_f64"]),
                _e(r["bn_rel_f64"]),
                _e(r["adamw_loss_rel_f64"]),
                _e(r["sgd_loss_rel_f64"]),
                *f32,
                "bitwise" if r["roundtrip_bitwise"] else "differ",
                _ratio(r["ratio_train"]),
                _ratio(r["ratio_infer"]),
                "pass" if r["pass"] else "**fail**",
            )
        )
    # certificates of one run of the program differ in the time alone: each day is said once
    made = {
        in_words(r["made"] | {"date": r["made"]["date"][:10]}): None
        for r in results
        if r.get("made")
    }
    return markdown(COLUMNS, rows) + "".join(f"\nMade {line}.\n" for line in made)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(results: Sequence[Certificate]) -> str:
    """One static HTML page: the summaries, loss curves and every layer's difference."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Certificates</title>",
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 "
        "1rem}",
        "pre{white-space:pre-wrap}table{border-collapse:collapse;font-size:13px}td,th{padding:2px "
        "10px;",
        "text-align:left;border-bottom:1px solid #ddd}.fail{color:#b00}img{max-width:100%}</style>",
        "<h1>Certificates</h1>",
    ]
    for result in results:
        state = "" if not result.failures else " class=fail"
        parts.append(
            f"<h2{state}>{html.escape(result.model)}</h2><pre>{html.escape(summary(result))}</pre>"
        )
        if result.curves:
            parts.append(f'<img alt="loss curves" src="data:image/png;base64,{_curves(result)}">')
        if result.blocks:
            rows = "".join(
                f"<tr><td>{html.escape(d.torch)}<td>{html.escape(d.ours)}<td>{d.relative:.1e}<td>{d.norm:.3g}"
                for d in result.blocks
            )
            parts.append(
                "<details><summary>Output of every layer, in training "
                f"mode</summary><table><tr><th>PyTorch<th>ours<th>difference<th>norm{rows}</table></details>"
            )
    return "\n".join(parts) + "\n"


def _curves(result: Certificate) -> str:
    """Losses of both optimisers and both frameworks on one plot, as base64 PNG."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, curves) in enumerate(result.curves.items()):
        axes.plot(curves["torch"], color=f"C{i}", lw=4, alpha=0.35, label=f"{name}, PyTorch")
        axes.plot(curves["ours"], color=f"C{i}", lw=1.2, ls="--", label=f"{name}, ours")
    axes.set(xlabel="step", ylabel="loss", title=f"{result.model}, float64")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()


def _timing_rows(timings: dict[str, Any]) -> list[tuple[str, str]]:
    if not timings:
        return []
    labels = {"torch": "PyTorch eager", "torch_compile": "torch.compile", "ours": "ours"}
    rows = []
    for mode in ("train", "infer"):
        text = ", ".join(
            f"{labels[k]} {1e3 * v['median']:.1f} ms ({1e3 * v['min']:.1f} to {1e3 * v['max']:.1f})"
            for k, v in timings[mode].items()
        )
        rows.append(
            (
                mode,
                f"{text}; PyTorch's best / ours {timings[f'ratio_{mode}']:.2f}, batch "
                f"{timings['batch_size']}",
            )
        )
    rows.append(("compiling", ", ".join(f"{k} {v:.1f} s" for k, v in timings["compile_s"].items())))
    if "torch_compile_error" in timings:
        rows.append(("", f"torch.compile failed: {timings['torch_compile_error']}"))
    if "peak_memory_mb" in timings:
        memory = timings["peak_memory_mb"].items()
        rows.append(
            (
                "memory",
                ", ".join(
                    f"{labels[k]} {v if isinstance(v, str) else f'{v:.0f} MB'}" for k, v in memory
                ),
            )
        )
    return rows


def _inputs(result: Certificate) -> str:
    shape = "x".join(map(str, result.image_shape))
    return f"texts of up to {result.length} tokens" if result.length else f"images {shape}"


def _note(result: Certificate) -> str:
    return f"; {result.note}" if result.note else ""


def _e(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.1e}"


def _ratio(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"
