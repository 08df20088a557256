"""Medians, ratios, the table and the plot."""

import pathlib
import statistics
from html import escape

#: (what, job, figure, whose, relation, goal): ours divided by theirs. Without a goal it is there to be looked at.
GOALS = [
    ("4 KiB random read against the nearest equal", "read-4k", "iops", "qcow2", ">=", 5),
    ("4 KiB random write against the nearest equal", "write-4k", "iops", "qcow2", ">=", 5),
    ("first writes against the nearest equal", "first-4k", "iops", "qcow2", ">=", 6),
    ("4 KiB random read against a plaintext file", "read-4k", "iops", "nbdkit", ">=", 1.2),
    ("4 KiB random write against a plaintext file", "write-4k", "iops", "nbdkit", ">=", 1.2),
    ("CPU of a 4 KiB read against a plaintext file", "read-4k", "cpu_us_per_op", "nbdkit", "<=", 0.7),
    ("CPU of a 4 KiB write against a plaintext file", "write-4k", "cpu_us_per_op", "nbdkit", "<=", 0.7),
    ("4 KiB random read against the limit", "read-4k", "iops", "limit", ">=", 0.8),
    ("4 KiB random write against the limit", "write-4k", "iops", "limit", ">=", 0.8),
    ("CPU of a 4 KiB read against the limit", "read-4k", "cpu_us_per_op", "limit", "<=", 1.6),
    ("CPU of a 4 KiB write against the limit", "write-4k", "cpu_us_per_op", "limit", "<=", 1.8),
    ("1 MiB read against the nearest equal", "read-1m", "bytes_per_second", "qcow2", ">=", 5),
    ("1 MiB write against the nearest equal", "write-1m", "bytes_per_second", "qcow2", ">=", 5),
    ("1 MiB read against the best plaintext peer", "read-1m", "bytes_per_second", "plaintext", ">=", 1.1),
    ("1 MiB write against the best plaintext peer", "write-1m", "bytes_per_second", "plaintext", ">=", 1.1),
    ("1 MiB read against the limit", "read-1m", "bytes_per_second", "limit", ">=", 0.6),
    ("1 MiB write against the limit", "write-1m", "bytes_per_second", "limit", ">=", 0.6),
    ("copy of the disk against nbd-server", "copy", "bytes_per_second", "nbd-server", ">=", 1.2),
    ("copy of the disk against the limit", "copy", "bytes_per_second", "limit", ">=", 0.6),
    ("four connections, read, against a plaintext file", "read-4k-x4", "iops", "nbdkit", ">=", 1.2),
    ("four connections, write, against a plaintext file", "write-4k-x4", "iops", "nbdkit", ">=", 1.2),
    ("four connections, read, against the limit", "read-4k-x4", "iops", "limit", ">=", 0.75),
    ("four connections, write, against the limit", "write-4k-x4", "iops", "limit", ">=", 0.75),
    ("4 KiB random read against the limit with a file", "read-4k", "iops", "floor", ">=", None),
    ("4 KiB random write against the limit with a file", "write-4k", "iops", "floor", ">=", None),
    ("CPU of a 4 KiB read against the limit with a file", "read-4k", "cpu_us_per_op", "floor", "<=", None),
    ("CPU of a 4 KiB write against the limit with a file", "write-4k", "cpu_us_per_op", "floor", "<=", None),
    ("first writes against the limit with a file", "first-4k", "iops", "floor", ">=", None),
    ("CPU of first writes against the limit with a file", "first-4k", "cpu_us_per_op", "floor", "<=", None),
    ("1 MiB read against the limit with a file", "read-1m", "bytes_per_second", "floor", ">=", None),
    ("1 MiB write against the limit with a file", "write-1m", "bytes_per_second", "floor", ">=", None),
    ("four connections, read, against the limit with a file", "read-4k-x4", "iops", "floor", ">=", None),
    ("four connections, write, against the limit with a file", "write-4k-x4", "iops", "floor", ">=", None),
    ("CPU of 4 KiB reads, encryption on against off", "read-4k", "cpu_us_per_op", "sealdisk-off", "<=", 1.05),
    ("CPU of 4 KiB writes, encryption on against off", "write-4k", "cpu_us_per_op", "sealdisk-off", "<=", 1.05),
    ("CPU of 1 MiB reads, encryption on against off", "read-1m", "cpu_s_per_gib", "sealdisk-off", "<=", 1.14),
    ("CPU of 1 MiB writes, encryption on against off", "write-1m", "cpu_s_per_gib", "sealdisk-off", "<=", 1.14),
]
PLAINTEXT = ("nbdkit", "cow", "nbd-server")
LARGE = ("read-1m", "write-1m", "copy")


class Figures:
    """Medians of a run by job and server."""

    def __init__(self, results):
        self.values = {}
        for row in results["rows"]:
            for figure, value in row.items():
                if isinstance(value, (int, float)):
                    self.values.setdefault((row["job"], row["server"], figure), []).append(value)

    def spread(self, job, server, figure):
        """(lowest, median, highest), or None where it was not measured."""
        values = self.values.get((job, server, figure))
        return values and (min(values), statistics.median(values), max(values))

    def median(self, job, server, figure):
        if server == "plaintext":
            found = [self.median(job, peer, figure) for peer in PLAINTEXT]
            return max((value for value in found if value is not None), default=None)
        spread = self.spread(job, server, figure)
        return spread and spread[1]


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    kernel = pathlib.Path("/proc/sys/kernel/osrelease").read_text().strip().split("-")[0]
    return f"{len(models)} x {models[0]}, Linux {kernel}" if models else f"Linux {kernel}"


def table(results):
    """Rows: servers. Columns: jobs. A cell: the median, in brackets the server's CPU time."""
    figures = Figures(results)
    jobs = results["jobs"]
    lines = ["| server | " + " | ".join(jobs.values()) + " |", "|---" * (len(jobs) + 1) + "|"]
    for server, label in results["servers"].items():
        cells = []
        for job in jobs:
            if job in LARGE:
                main, cpu = figures.spread(job, server, "bytes_per_second"), figures.median(job, server, "cpu_s_per_gib")
                cells.append(f"{main[1] / 1e6:.0f} MB/s ({cpu:.2f})" if main else "-")
            else:
                main, cpu = figures.spread(job, server, "iops"), figures.median(job, server, "cpu_us_per_op")
                cells.append(f"{main[1] / 1e3:.1f}k ({cpu:.1f})" if main else "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def latency(results):
    figures = Figures(results)
    jobs = [job for job in ("read-4k-qd1", "write-4k-qd1", "mixed-4k-x4") if job in results["jobs"]]
    lines = ["| server | " + " | ".join(results["jobs"][job] for job in jobs) + " |", "|---" * (len(jobs) + 1) + "|"]
    for server, label in results["servers"].items():
        found = [[figures.median(job, server, f"p{part}_us") for part in ("50", "99", "999")] for job in jobs]
        cells = [" / ".join(f"{value:.0f}" for value in cell) if None not in cell else "-" for cell in found]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if jobs else ""


def goals(results):
    figures = Figures(results)
    lines = ["| what | ratio | goal | reached |", "|---|---|---|---|"]
    for what, job, figure, peer, relation, goal in GOALS:
        ours, theirs = figures.median(job, "sealdisk", figure), figures.median(job, peer, figure)
        if not ours or not theirs:
            continue
        ratio = ours / theirs
        if goal is None:
            lines.append(f"| {what} | {ratio:.2f} | - | - |")
            continue
        reached = ratio >= goal if relation == ">=" else ratio <= goal
        lines.append(f"| {what} | {ratio:.2f} | {relation} {goal} | {'yes' if reached else 'no'} |")
    return "\n".join(lines)


def text(results):
    return "\n\n".join([table(results), latency(results), goals(results)])


def write(results, docs):
    """Replaces the measured part of benchmarks.md, between its two marks, and the plot."""
    page = docs / "benchmarks.md"
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    head, rest = page.read_text().split(begin)
    tail = rest.split(end)[1]
    measured = f"""
Machine: {results['machine']}. Versions: {', '.join(results['versions'])}; sealdisk {results['commit']}.
Repeat with `{results['command'].strip()}`: {results['rounds']} rounds over {results['size'] >> 20} MiB.

Small requests: thousands of operations a second, in brackets server CPU in microseconds an operation. Large ones: MB/s,
in brackets server CPU in seconds a GiB.

{table(results)}

Latency in microseconds, 50th / 99th / 99.9th percentile (of a mixed job the slower side):

{latency(results)}

Ours divided by theirs:

{goals(results)}

![The same as bars](benchmarks.svg)
"""
    page.write_text(head + begin + "\n" + measured + "\n" + end + tail)
    (docs / "benchmarks.svg").write_text(plot(results))


COLOURS = {"sealdisk": "#1a7f5a", "sealdisk-off": "#8ccfb5", "limit": "#b9bec6", "floor": "#949ba6"}


def plot(results):
    """One panel a job, one bar a server: the median, with a line from the lowest to the highest."""
    figures = Figures(results)
    servers = list(results["servers"].items())
    columns, width, label_width, row_height = 2, 580, 250, 20
    panel_height = 56 + row_height * len(servers)
    rows = -(-len(results["jobs"]) // columns)
    parts = []
    for index, (job, title) in enumerate(results["jobs"].items()):
        figure, scale, unit = ("bytes_per_second", 1e6, "MB/s") if job in LARGE else ("iops", 1e3, "k IOPS")
        spreads = {name: figures.spread(job, name, figure) for name, _ in servers}
        top = max((spread[2] for spread in spreads.values() if spread), default=1)
        x, y = (index % columns) * width, (index // columns) * panel_height
        parts.append(f'<text x="{x + 12}" y="{y + 24}" class="title">{escape(title)}, {unit}</text>')
        for place, (name, label) in enumerate(servers):
            middle = y + 44 + place * row_height
            parts.append(f'<text x="{x + label_width}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
            if not spreads[name]:
                continue
            low, median, high = (value / top * (width - label_width - 80) for value in spreads[name])
            left = x + label_width + 8
            colour = COLOURS.get(name, "#5b7fb8")
            parts.append(f'<rect x="{left}" y="{middle - 7}" width="{median:.1f}" height="14" fill="{colour}"/>')
            parts.append(f'<path d="M{left + low:.1f} {middle}H{left + high:.1f}" stroke="#222"/>')
            shown = spreads[name][1] / scale
            shown = f"{shown:.4g}" if shown < 1e4 else f"{shown:.0f}"
            parts.append(f'<text x="{left + max(median, high) + 6:.1f}" y="{middle + 4}">{shown}</text>')
    size = f'width="{columns * width}" height="{rows * panel_height}"'
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:13px}"
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n'
        f'<rect {size} fill="#fff"/>\n{body}\n</svg>\n'
    )
