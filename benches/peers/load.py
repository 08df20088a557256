"""The jobs, and what is taken down of each."""

import dataclasses
import json
import subprocess
import sys
import time


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    label: str
    #: Options of fio; none: a copy of the whole disk with nbdcopy.
    fio: tuple[str, ...] = ()
    #: Runs on a new disk on which nothing has been written.
    fresh: bool = False


JOBS = [
    Job("read-4k", "4 KiB random read, QD 32", ("--rw=randread", "--bs=4k", "--iodepth=32")),
    Job("write-4k", "4 KiB random write, QD 32", ("--rw=randwrite", "--bs=4k", "--iodepth=32")),
    Job("first-4k", "4 KiB first writes, QD 32", ("--rw=randwrite", "--bs=4k", "--iodepth=32"), fresh=True),
    Job("read-1m", "1 MiB read, QD 4", ("--rw=read", "--bs=1m", "--iodepth=4")),
    Job("write-1m", "1 MiB write, QD 4", ("--rw=write", "--bs=1m", "--iodepth=4")),
    Job("read-4k-x4", "4 KiB random read, 4 x QD 8", ("--rw=randread", "--bs=4k", "--iodepth=8", "--numjobs=4")),
    Job("write-4k-x4", "4 KiB random write, 4 x QD 8", ("--rw=randwrite", "--bs=4k", "--iodepth=8", "--numjobs=4")),
    Job("read-4k-qd1", "4 KiB random read, QD 1", ("--rw=randread", "--bs=4k", "--iodepth=1")),
    Job("write-4k-qd1", "4 KiB random write, QD 1", ("--rw=randwrite", "--bs=4k", "--iodepth=1")),
    Job(
        "mixed-4k-x4",
        "4 KiB 70/30, 4 x QD 8",
        ("--rw=randrw", "--rwmixread=70", "--bs=4k", "--iodepth=8", "--numjobs=4"),
    ),
    Job("copy", "nbdcopy of the whole disk"),
]

#: Requests of a job on a fresh disk: few enough that no page is written twice.
FRESH_SHARE = 0.4


def run(bench, servers, jobs, rounds, seconds):
    """Each job on one server after the other, `rounds` times. Returns one dictionary a run."""
    rows = []
    for job in jobs:
        for number in range(rounds):
            # Every other round the other way round, so that no server always follows the same neighbour.
            for server in servers if number % 2 == 0 else servers[::-1]:
                if job.fresh and not server.peer.fresh:
                    continue
                row = measure(bench, server, job, seconds)
                rows.append({"job": job.name, "server": server.peer.name, "round": number, **row})
                print(f"{job.name} {number + 1}/{rounds} {server.peer.name}: {brief(row)}", file=sys.stderr)
    return rows


def brief(row):
    return f"{row['iops']:.0f} IOPS, {row['bytes_per_second'] / 1e6:.0f} MB/s, {row['cpu_us_per_op']:.1f} us an operation"


def measure(bench, server, job, seconds):
    if job.fresh:
        server = bench.start(server.peer, fill=False)
    try:
        before = server.cpu_seconds()
        row = copy(server, bench.size) if not job.fio else fio(bench, server, job, seconds)
        time.sleep(0.05)  # a server's child of a finished connection is waited for
        cpu = server.cpu_seconds() - before
    finally:
        if job.fresh:
            server.stop()
    row["cpu_us_per_op"] = cpu * 1e6 / row["operations"]
    row["cpu_s_per_gib"] = cpu * (1 << 30) / row["bytes"]
    return row


def copy(server, size):
    started = time.monotonic()
    subprocess.run(["nbdcopy", server.uri, "null:"], check=True)
    elapsed = time.monotonic() - started
    operations = size / (256 << 10)  # the requests of nbdcopy
    return {"iops": operations / elapsed, "bytes_per_second": size / elapsed, "operations": operations, "bytes": size}


def fio(bench, server, job, seconds):
    report = bench.folder / "fio.json"
    if job.fresh:
        extent = [f"--number_ios={int(bench.size / 4096 * FRESH_SHARE)}"]
    else:
        extent = ["--time_based", f"--runtime={seconds}"]
    subprocess.run(
        ["fio", "--name=job", "--ioengine=nbd", f"--uri={server.uri}", f"--size={bench.size}", *job.fio, *extent]
        + ["--group_reporting", "--norandommap" if not job.fresh else "--randrepeat=1", "--lat_percentiles=1"]
        + ["--output-format=json", f"--output={report}"],
        check=True,
        timeout=seconds + 120,
        stdout=subprocess.DEVNULL,
        cwd=bench.folder,
    )
    job_report = json.loads(report.read_text())["jobs"][0]
    sides = [job_report[side] for side in ("read", "write") if job_report[side]["total_ios"]]
    row = {
        "iops": sum(side["iops"] for side in sides),
        "bytes_per_second": sum(side["bw_bytes"] for side in sides),
        "operations": sum(side["total_ios"] for side in sides),
        "bytes": sum(side["io_bytes"] for side in sides),
    }
    # The slower side of a mixed job decides. Counted from when a request is handed to the client's library: a server that
    # is woken on the client's processor may have answered before that returns, and completion latency leaves it out.
    for name, percentile in (("p50_us", "50.000000"), ("p99_us", "99.000000"), ("p999_us", "99.900000")):
        row[name] = max(side["lat_ns"]["percentile"][percentile] for side in sides) / 1000
    return row
