#!/usr/bin/env python3
"""Runs criterion benches and compares them with a stored baseline.

    scripts/bench_compare.py --baseline old.json --save new.json [--limit PERCENT] [BENCH ...]

It reports: times differ from machine to machine and from hour to hour, so nothing fails unless --limit is given. Then the
exit code is 1 when a bench became slower by more than so many percent and the confidence intervals do not touch.
A baseline that is missing is no error; the first run makes it. Needs Python 3.9 and nothing else.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

# The stages of one job, from source bytes to encoded bytes. `pipeline` is the sum, `predecessor` takes minutes.
BENCHES = ["decode", "index", "model", "assign", "recolor", "encode"]

# What the same program may differ by from run to run on one machine.
NOISE = 0.05


def processor():
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def criterion_folder():
    return Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "criterion"


def measured_since(start):
    """Median and its 95 % interval in nanoseconds of every bench that criterion wrote after `start`, by full name."""
    found = {}
    for estimates in sorted(criterion_folder().glob("**/new/estimates.json")):
        if estimates.stat().st_mtime < start:
            continue
        name = json.loads((estimates.parent / "benchmark.json").read_text(encoding="utf-8"))["full_id"]
        median = json.loads(estimates.read_text(encoding="utf-8"))["median"]
        interval = median["confidence_interval"]
        found[name] = {
            "median_ns": median["point_estimate"],
            "low_ns": interval["lower_bound"],
            "high_ns": interval["upper_bound"],
        }
    return found


def run(benches):
    command = ["cargo", "bench", "--locked"]
    for bench in benches:
        command += ["--bench", bench]
    subprocess.run([*command, "--", "--noplot"], check=True)


def shown(nanoseconds):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def verdict(old, new):
    """How a bench changed: a word, and by how much its median grew (0.1: a tenth slower)."""
    change = new["median_ns"] / old["median_ns"] - 1
    apart = new["low_ns"] > old["high_ns"] or new["high_ns"] < old["low_ns"]
    if not apart or abs(change) <= NOISE:
        return "same", change
    return ("slower" if change > 0 else "faster"), change


def compare(baseline, current, limit):
    """Prints the table and returns the benches beyond the limit."""
    old, new = baseline.get("benches", {}), current["benches"]
    beyond, logs = [], []
    width = max(map(len, [*old, *new]), default=5)
    print(f"{'bench':{width}}  {'before':>9}  {'now':>9}  change")
    for name in sorted({*old, *new}):
        if name not in new:
            print(f"{name:{width}}  {shown(old[name]['median_ns']):>9}  {'-':>9}  not measured")
        elif name not in old:
            print(f"{name:{width}}  {'-':>9}  {shown(new[name]['median_ns']):>9}  new")
        else:
            word, change = verdict(old[name], new[name])
            logs.append(math.log1p(change))
            print(
                f"{name:{width}}  {shown(old[name]['median_ns']):>9}  {shown(new[name]['median_ns']):>9}"
                f"  {change:+.1%} {word}"
            )
            if limit is not None and word == "slower" and change * 100 > limit:
                beyond.append(name)
    if logs:
        print(f"geometric mean of {len(logs)}: {math.expm1(sum(logs) / len(logs)):+.1%}")
    else:
        print("nothing to compare with: this run is the first baseline")
    for key in ("processor", "cores"):
        if baseline.get(key) not in (None, current[key]):
            print(f"NOTE: the baseline's {key} was {baseline[key]}, this machine's is {current[key]}")
    return beyond


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"default: {' '.join(BENCHES)}")
    parser.add_argument("--baseline", type=Path, help="figures to compare with; a missing file is no error")
    parser.add_argument("--save", type=Path, help="where this run's figures go")
    parser.add_argument("--limit", type=float, help="percent of slowing down above which the exit code is 1")
    parser.add_argument("--no-run", action="store_true", help="take what criterion has measured before")
    arguments = parser.parse_args()
    # Paths are the caller's; cargo runs in the repository.
    baseline_file, save_file = ((path and path.resolve()) for path in (arguments.baseline, arguments.save))
    os.chdir(Path(__file__).resolve().parent.parent)

    # File systems may keep whole seconds.
    start = 0.0 if arguments.no_run else math.floor(time.time())
    if not arguments.no_run:
        run(arguments.benches or BENCHES)
    current = {"processor": processor(), "cores": os.cpu_count(), "benches": measured_since(start)}
    if not current["benches"]:
        sys.exit(f"criterion left no figures in {criterion_folder()}")
    if save_file:
        save_file.write_text(json.dumps(current, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    baseline = {}
    if baseline_file and baseline_file.exists():
        baseline = json.loads(baseline_file.read_text(encoding="utf-8"))
    beyond = compare(baseline, current, arguments.limit)
    if beyond:
        sys.exit(f"slower by more than {arguments.limit:g} %: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
