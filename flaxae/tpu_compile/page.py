"""The text that the command prints for a report."""

from flaxae.tpu_compile.report import Report

_NAMES = {"compute": "matmul units", "hbm": "HBM", "ici": "links between chips"}


def page(config_name: str, report: Report) -> str:
    """Return a report as text."""
    axes = " x ".join(f"{k}={v}" for k, v in report.mesh.items() if v > 1) or "one device"
    share = report.hbm_bytes / report.hbm_capacity_bytes
    bound = report.step_seconds_bound
    by = max(report.seconds, key=lambda k: report.seconds[k])
    ratio = report.flops / report.task_flops if report.task_flops else float("nan")
    rows = [
        ("parameters", f"{report.params / 1e6:,.1f} M"),
        (
            "batch",
            f"{report.rows_a_chip:g} rows per chip" if report.rows_a_chip else "drawn in the step",
        ),
        ("", ""),
        ("HBM", f"{_gib(report.hbm_bytes)} of {_gib(report.hbm_capacity_bytes)} ({share:.0%})"),
        ("  arguments", f"{_gib(report.argument_bytes)}  parameters, optimizer state, batch"),
        (
            "  temporaries",
            f"{_gib(report.temporary_bytes)}  saved activations, gradients, workspace",
        ),
        ("  output", f"{_gib(report.output_bytes)}  not counting what replaces arguments"),
        ("  code", f"{_gib(report.code_bytes)}"),
        ("", ""),
        ("FLOPs", f"{report.flops / 1e12:.3f} TFLOP, {ratio:.2f} x the task's own count"),
        ("bytes accessed", f"{report.bytes_accessed / 1e9:.2f} GB"),
        ("sent to other chips", f"{sum(report.collective_bytes.values()) / 1e9:.3f} GB"),
        *_message_rows(report),
        ("", ""),
        *((f"time: {_NAMES[k]}", f"{1e3 * v:.2f} ms") for k, v in report.seconds.items()),
        ("step, at best", f"{1e3 * bound:.2f} ms, bound by the {_NAMES[by]}"),
        ("MFU, at best", f"{report.mfu_bound:.0%}"),
        ("", ""),
        ("compiled in", f"{report.compile_seconds:.1f} s"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{config_name} on {report.topology}: {report.chips} chips, {axes}", ""]
    lines += [f"  {name:{width}}{value}".rstrip() for name, value in rows]
    if report.unknown_loops:
        lines += ["", f"{report.unknown_loops} loops have an unknown trip count: they count once."]
    if report.slices > 1:
        lines += [
            "",
            "Messages between slices are timed as if on the links inside a slice: too fast.",
        ]
    if report.temporary_bytes > report.hbm_bytes:
        lines += ["", "Temporaries share memory with donated arguments: the sum exceeds the peak."]
    lines += [
        "",
        "All numbers are per chip and step. Times assume the published peaks and full overlap.",
    ]
    return "\n".join(lines)


def _message_rows(report: Report) -> list[tuple[str, str]]:
    """Return one line per kind of message and mesh axis."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for m in report.collectives:
        size, count = sums.get((m.kind, m.axis), (0.0, 0.0))
        times = m.times / report.steps_per_call
        sums[m.kind, m.axis] = (size + times * m.sent, count + times)
    return [
        (f"  {kind}, {axis}", f"{size / 1e9:.3f} GB in {count:g}")
        for (kind, axis), (size, count) in sorted(sums.items(), key=lambda x: -x[1][0])
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
