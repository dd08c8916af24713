#!/usr/bin/env python3
"""Runs gwbench and says what came out: a table (Markdown), build/bench.json, and what changed against ratios.txt.

    python3 tests/bench/run.py [--runs N] [--quick] [--rows a,b] [--record] [--check] [--against FILE]

A ratio is the bare loop's figure by the library's, taken in the same run: higher is better, for times and memory too.
Recorded ratios are of CPU time, which a busy machine disturbs less than the clock, and of the best runs of both,
which it disturbs least; the table shows medians, and the clock's too.
--record writes ratios.txt anew. --check repeats what fell, and fails where it fell far (tests/bench_test.sh).
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
RECORDED = os.path.join(HERE, "ratios.txt")

FELL = 0.90             # below this share of the recorded ratio it is said
FAILS = 0.75            # ... and below this it fails the check, on the kind of machine that it was recorded on
FAILS_ELSEWHERE = 0.50  # ... on any other, whose ratios are its own
REPEATS = 2             # times that a row which fell is measured again

# name of the ratio (and of the library's row), the bare loop's row, the figure, words, goal of issue 6
STREAMS = [
    ("unread", "bare", "events handed out, not read", 0.60),
    ("three", "bare", "three fields read of each MESSAGE_CREATE", 0.35),
    ("three_pick", "bare", "... by gw_pick", None),
    ("three_of_all", "bare", "three fields asked of every event", None),
    ("every", "bare", "every value visited", 0.22),
    ("filtered", "bare", "nine of ten filtered", 0.80),
    ("record", "bare_record", "one record an event", 0.90),
]
LARGE = [
    ("10mb_unread", "handed out", 1.6),
    ("10mb_read", "own fields and each member's id read", None),
    ("10mb_every", "every value visited", None),
    ("10mb_filtered", "filtered", 1.4),
    ("10mb_over", "over the limit", None),
]
SIZES = [("10k", "10 KB"), ("100k", "100 KB"), ("1m", "1 MB"), ("10m", "10 MB"), ("100m", "100 MB")]
SIZE_GOAL_TEXT = 48 * 1024


# ---- what was measured ----

class Figures:
    """rows[name][run][figure]; a row that was not measured, or failed, is not there."""

    def __init__(self, rows):
        self.rows = {name: [run for run in runs if run] for name, runs in rows.items()}
        self.rows = {name: runs for name, runs in self.rows.items() if runs}

    def has(self, *names):
        return all(name in self.rows for name in names)

    def series(self, row, figure):
        return [run[figure] for run in self.rows[row] if figure in run]

    def middle(self, row, figure):
        return statistics.median(self.series(row, figure))

    def ratios(self, base, row, figure, per=None):
        """Of each run: base by row, both per unit where one is named."""
        pairs = zip(self.rows[base], self.rows[row])
        return [(a[figure] / (a[per] if per else 1)) / (b[figure] / (b[per] if per else 1)) for a, b in pairs]


def run_gwbench(runs, quick, rows):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [os.path.join(BUILD, "gwbench"), "--runs", str(runs), "--out", out.name]
        command += ["--quick"] if quick else []
        command += ["--rows", rows] if rows else []
        status = subprocess.call(command, cwd=ROOT)
        with open(out.name) as file:
            text = file.read()
    if status or not text:      # a row that broke must not pass by its absence
        sys.exit("run.py: gwbench ended with status %d" % status)
    return Figures(json.loads(text)["rows"])


def code_sizes():
    """text of the header's implementation alone, by size(1), at -Os and -O2."""
    compiler = os.environ.get("CC", "cc").split() + os.environ.get("DEPENDENCY_CPPFLAGS", "").split()
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        source, made = os.path.join(folder, "one.c"), os.path.join(folder, "one.o")
        with open(source, "w") as file:
            file.write('#define DISCORD_GATEWAY_IMPLEMENTATION\n#include "discord_gateway.h"\n')
        for level in ("-Os", "-O2"):
            command = compiler + ["-std=c99", "-D_DEFAULT_SOURCE", level, "-I", ROOT, "-c", source, "-o", made]
            try:
                subprocess.check_call(command)
                line = subprocess.check_output(["size", made], universal_newlines=True).splitlines()[1]
                sizes[level] = int(line.split()[0])
            except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
                pass            # no size(1) here: no figure
    return sizes


# ---- ratios ----

def best_ratio(figures, base, row, figure, per=None):
    least = [min(run[figure] / (run[per] if per else 1) for run in figures.rows[name]) for name in (base, row)]
    return least[0] / least[1]


def all_ratios(figures, sizes):
    """name: ratio of the best runs."""
    found = {}
    streams = [(name, base) for name, base, _, _ in STREAMS] + [(name, "bare_10mb") for name, _, _ in LARGE]
    for name, base in streams:
        if figures.has(name, base):
            found[name] = best_ratio(figures, base, name, "cpu_s", "bytes")
    for name in ("start", "handshake", "handshake_resumed"):
        if figures.has(name, "bare_" + name):
            found[name] = best_ratio(figures, "bare_" + name, name, "cpu_s")
    if figures.has("idle_100", "bare_idle"):
        found["idle_memory"] = best_ratio(figures, "bare_idle", "idle_100", "private_bytes")
    if figures.has("idle_poll", "bare"):
        event_ns = min(run["cpu_s"] / run["events"] for run in figures.rows["bare"]) * 1e9
        found["idle_poll"] = event_ns / min(figures.series("idle_poll", "ns"))
    if "-Os" in sizes:
        found["code_size"] = SIZE_GOAL_TEXT / sizes["-Os"]
    return found


# Which rows a ratio comes from, to measure them again.
def rows_of(name):
    bases = {row: base for row, base, _, _ in STREAMS}
    bases.update({row: "bare_10mb" for row, _, _ in LARGE})
    bases.update({row: "bare_" + row for row in ("handshake", "handshake_resumed", "start")})
    bases["idle_poll"] = "bare"
    if name == "idle_memory":
        return ["bare_idle", "idle_100"]
    return [bases[name], name] if name in bases else []


def machine():
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": os.cpu_count(), "kernel": platform.release(),
            "load": round(os.getloadavg()[0], 2)}


def read_recorded(path):
    recorded, cpu = {}, ""
    if not os.path.exists(path):
        return recorded, cpu
    with open(path) as file:
        for line in file:
            if line.startswith("# cpu: "):
                cpu = line[7:].strip()
            elif line.strip() and not line.startswith("#"):
                name, value = line.split()
                recorded[name] = float(value)
    return recorded, cpu


def write_recorded(path, ratios, where):
    kept, _ = read_recorded(path)
    kept.update(ratios)
    with open(path, "w") as file:
        file.write("# The bare loop's CPU time (idle_memory: its memory; code_size: 48 KiB) by the library's, best of all runs:\n"
                   "# higher is better. Written by `make bench-record`; tests/bench_test.sh compares with it.\n"
                   "# cpu: %s\n" % where["cpu"])
        for name in sorted(kept):
            file.write("%s %.4f\n" % (name, kept[name]))


# ---- the table ----

def spread(values, form):
    text = form % statistics.median(values)
    return text if len(values) < 2 else text + " (" + form % min(values) + " to " + form % max(values) + ")"


def verdict(value, goal, form, at_least):
    if goal is None:
        return ""
    met = value >= goal if at_least else value <= goal
    return ("≥ " if at_least else "≤ ") + form % goal + (", met" if met else ", **not met**")


def stream_lines(figures):
    yield "| stream of %d events | events/s | CPU µs an event | of bare, events/s | of bare, CPU | goal |" % \
        figures.middle("bare", "events")
    yield "|---|--:|--:|--:|--:|---|"
    plain = [("bare", "bare loop (decrypt and drop)"), ("bare_ahead", "... reading ahead 64 KiB"),
             ("bare_slower", "... and spending 0.30 µs on each event"),
             ("bare_record", "bare loop, one record an event"), ("bare_record_ahead", "... reading ahead 64 KiB")]
    for name, words in plain:
        if figures.has(name):
            yield "| %s | %s | %s | | | |" % (words, rate(figures, name), cost(figures, name))
    for name, base, words, goal in STREAMS:
        if figures.has(name, base):
            wall = figures.ratios(base, name, "wall_s", "bytes")
            yield "| %s | %s | %s | %s | %s | %s |" % (
                words, rate(figures, name), cost(figures, name), spread(wall, "%.2f"),
                spread(figures.ratios(base, name, "cpu_s", "bytes"), "%.2f"),
                verdict(statistics.median(wall), goal, "%.2f", True))


def rate(figures, name):
    return spread([run["events"] / run["wall_s"] / 1e3 for run in figures.rows[name]], "%.0f k")


def cost(figures, name):
    return spread([run["cpu_s"] / run["events"] * 1e6 for run in figures.rows[name]], "%.2f")


def each_ms(figures, name, figure):
    return [run[figure] / run["events"] * 1e3 for run in figures.rows[name]]


def large_lines(figures):
    yield "| GUILD_CREATE of 10 MB | ms | CPU ms | bare loop's time | bare loop's CPU | goal | resident, by the payload |"
    yield "|---|--:|--:|--:|--:|---|--:|"
    yield "| bare loop | %s | %s | | | | |" % (
        spread(each_ms(figures, "bare_10mb", "wall_s"), "%.1f"), spread(each_ms(figures, "bare_10mb", "cpu_s"), "%.1f"))
    for name, words, goal in LARGE:
        if not figures.has(name):
            continue
        wall = [1 / ratio for ratio in figures.ratios("bare_10mb", name, "wall_s", "bytes")]
        cpu = [1 / ratio for ratio in figures.ratios("bare_10mb", name, "cpu_s", "bytes")]
        grown = [run["resident_growth"] / (run["bytes"] / run["events"]) for run in figures.rows[name]]
        yield "| %s | %s | %s | %s | %s | %s | %s |" % (
            words, spread(each_ms(figures, name, "wall_s"), "%.1f"), spread(each_ms(figures, name, "cpu_s"), "%.1f"),
            spread(wall, "%.2fx"), spread(cpu, "%.2fx"), verdict(statistics.median(wall), goal, "%.1fx", False),
            spread(grown, "%.2f"))


def size_lines(figures):
    yield "| payload | bare loop, CPU ns a byte | library | ratio |"
    yield "|---|--:|--:|--:|"
    per_byte = []
    for name, words in SIZES:
        bare, ours = "bare_size_" + name, "size_" + name
        if figures.has(bare, ours):
            values = [run["cpu_s"] / run["bytes"] * 1e9 for run in figures.rows[ours]]
            per_byte.append(statistics.median(values))
            yield "| %s | %s | %s | %s |" % (
                words, spread([run["cpu_s"] / run["bytes"] * 1e9 for run in figures.rows[bare]], "%.3f"),
                spread(values, "%.3f"), spread(figures.ratios(bare, ours, "cpu_s", "bytes"), "%.2f"))
    yield "| largest by smallest | | %.2fx | %s |" % (
        max(per_byte) / min(per_byte), verdict(max(per_byte) / min(per_byte), 1.3, "%.1fx", False))
    if figures.has("fresh_memory"):
        fresh, again = ([run[name] / run["bytes"] * 1e9 for run in figures.rows["fresh_memory"]]
                        for name in ("fresh_cpu_s", "again_cpu_s"))
        yield "| memory alone: 100 MB filled for the first time; again | %s; %s | | |" % (
            spread(fresh, "%.3f"), spread(again, "%.3f"))


def idle_lines(figures):
    yield "| idle shards in one client | private KiB each | gw_stats, KiB each | idle CPU ms/s | all LIVE after s | goal |"
    yield "|--:|--:|--:|--:|--:|---|"
    for name, words in (("bare_idle", "100"), ("bare_idle_1000", "1000")):
        if figures.has(name):
            yield "| bare loop, %s connections that beat | %s | | %s | | |" % (
                words, spread([value / 1024 for value in figures.series(name, "private_bytes")], "%.1f"),
                spread(figures.series(name, "idle_ms_per_s"), "%.2f"))
    for count in (1, 10, 100, 1000):
        name = "idle_%d" % count
        if not figures.has(name):
            continue
        private = [value / 1024 for value in figures.series(name, "private_bytes")]
        idle = figures.series(name, "idle_ms_per_s")
        goal = verdict(statistics.median(private), 24, "%.0f KiB", False) if count >= 10 else ""
        if count == 1000:
            goal += "; " + verdict(statistics.median(idle), 2, "%.0f ms/s", False)
            goal += "; " + verdict(statistics.median(private) * count / 1024, 32, "%.0f MB in all", False)
        yield "| %d | %s | %s | %s | %s | %s |" % (
            count, spread(private, "%.1f"), spread([v / 1024 for v in figures.series(name, "own_bytes")], "%.1f"),
            spread(idle, "%.2f"), spread(figures.series(name, "live_s"), "%.2f"), goal)


def time_pair(figures, name, figure, words, goal=None):
    """bare loop and library, in ms, and how many times."""
    if not figures.has(name, "bare_" + name):
        return []
    times = [1 / ratio for ratio in figures.ratios("bare_" + name, name, figure)]
    both = [spread([v * 1e3 for v in figures.series(row, figure)], "%.2f") for row in ("bare_" + name, name)]
    return ["| %s | %s ms | %s ms | %s | %s |" % (
        words, both[0], both[1], spread(times, "%.2fx"), verdict(statistics.median(times), goal, "%.1fx", False))]


def other_lines(figures, sizes):
    yield "| | bare loop | library | | goal |"
    yield "|---|--:|--:|--:|---|"
    yield from time_pair(figures, "start", "wall_s", "process start to READY", 1.2)
    yield from time_pair(figures, "start", "cpu_s", "... CPU of the whole process")
    yield from time_pair(figures, "handshake", "cpu_s", "handshake to 101, full (CPU)")
    yield from time_pair(figures, "handshake_resumed", "cpu_s", "handshake to 101, resumed (CPU)")
    if figures.has("idle_poll"):
        yield "| idle `gw_poll` | | %s ns | | |" % spread(figures.series("idle_poll", "ns"), "%.0f")
    for name, words, goal in (("syscalls_idle", "system calls of an idle `gw_poll` (ptrace)", 1),
                              ("syscalls_event", "system calls an event (ptrace)", None)):
        if figures.has(name):
            calls = figures.middle(name, "calls")
            run = figures.rows[name][0]
            kinds = ", ".join("%s %.3f" % (kind, count) for kind, count in run.items() if kind != "calls")
            yield "| %s | | %.2f | %s | %s |" % (words, calls, kinds, verdict(calls, goal, "%d", False))
    for name, words in (("burst", "10 MB of events"), ("burst_one", "one GUILD_CREATE of 10 MB")):
        if figures.has(name):
            longest = figures.middle(name, "longest_us")
            yield "| longest `gw_poll` at 60 Hz, %s | | %s µs | CPU %.0f; 99.9th percentile %.0f; a frame's polls %.0f | %s |" \
                % (words, spread(figures.series(name, "longest_us"), "%.0f"), figures.middle(name, "longest_cpu_us"),
                   figures.middle(name, "p999_us"), figures.middle(name, "longest_frame_us"),
                   verdict(longest, 1000, "%d µs", False))
    for level in sizes:
        yield "| text of the header, %s | | %.1f KiB | | %s |" % (
            level, sizes[level] / 1024, verdict(sizes[level] / 1024, 48, "%d KiB", False) if level == "-Os" else "")


def ram_lines(figures):
    words = [("opened", "client, before it connects"), ("handshake_peak", "highest, in the handshake"),
             ("idle", "one shard LIVE, idle"), ("idle_buffers", "... in blocks of 8 KiB and more (buffers)"),
             ("idle_small", "... in smaller blocks (contexts)"), ("streaming", "events streaming in"),
             ("with_tokens", "... and tokens of one event made"), ("idle_again", "idle again")]
    yield "| RAM by part, one shard | bytes |"
    yield "|---|--:|"
    for name, text in words:
        yield "| %s | %d |" % (text, figures.middle("ram", name))


def table(figures, sizes):
    parts = []
    if figures.has("bare"):
        parts.append(stream_lines(figures))
    if figures.has("bare_10mb"):
        parts.append(large_lines(figures))
    if figures.has("size_10k", "size_100m"):
        parts.append(size_lines(figures))
    if figures.has("idle_100"):
        parts.append(idle_lines(figures))
    parts.append(other_lines(figures, sizes))
    if figures.has("ram"):
        parts.append(ram_lines(figures))
    return "\n\n".join("\n".join(part) for part in parts)


# The server may not be what is measured: it has to have had time left.
def server_share(figures):
    shares = [(run["server_cpu_s"] / run["cpu_s"], name) for name, runs in figures.rows.items()
              for run in runs if "server_cpu_s" in run]
    return max(shares) if shares else (0, "")


# ---- what changed ----

def changes(ratios, recorded):
    for name in sorted(ratios):
        now = ratios[name]
        if name not in recorded:
            yield name, now, None, "not recorded"
            continue
        share = now / recorded[name]
        yield name, now, recorded[name], "FELL" if share < FELL else "rose" if share > 1 / FELL else ""


def print_changes(ratios, recorded):
    print("| ratio (bare loop by library, higher is better) | now | recorded | |\n|---|--:|--:|---|")
    for name, now, before, word in changes(ratios, recorded):
        print("| %s | %.3f | %s | %s |" % (name, now, "" if before is None else "%.3f" % before, word))


def repeat_what_fell(ratios, recorded, args):
    """A noisy neighbour is gone the next time; a slower library is not. The best of the repeats counts."""
    for _ in range(REPEATS):
        fell = [name for name, _, _, word in changes(ratios, recorded) if word == "FELL" and rows_of(name)]
        if not fell:
            return
        print("again: " + ", ".join(fell), flush=True)
        rows = sorted({row for name in fell for row in rows_of(name)})
        again = all_ratios(run_gwbench(args.runs, args.quick, ",".join(rows)), {})
        for name in fell:
            ratios[name] = max(ratios[name], again.get(name, 0))


def check(ratios, recorded, same_machine):
    """passed, failed."""
    limit = FAILS if same_machine else FAILS_ELSEWHERE
    passed = failed = 0
    for name, now, before, word in changes(ratios, recorded):
        bad = before is not None and now < limit * before
        passed, failed = passed + (not bad), failed + bad
        if word == "FELL":
            print("%s: %s fell from %.3f to %.3f" % ("FAILED" if bad else "finding", name, before, now))
    return passed, failed


def summary(figures, ratios, sizes, where):
    rows = {name: {figure: {"median": figures.middle(name, figure), "min": min(figures.series(name, figure)),
                            "max": max(figures.series(name, figure)), "runs": figures.series(name, figure)}
                   for figure in runs[0]} for name, runs in figures.rows.items()}
    return {"machine": where, "rows": rows, "ratios": ratios, "text_bytes": sizes}


def read_figures(paths):
    """The runs of earlier times, taken together, and the machine of the first."""
    rows, where = {}, None
    for path in paths:
        with open(path) as file:
            found = json.load(file)
        where = where or found["machine"]
        for name, figures in found["rows"].items():
            runs = zip(*(figures[figure]["runs"] for figure in figures))
            rows.setdefault(name, []).extend(dict(zip(figures, run)) for run in runs)
    return Figures(rows), where


def parse():
    parser = argparse.ArgumentParser(description="Measures the library against a bare BearSSL loop.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer rows, fewer events")
    parser.add_argument("--rows", default="", help="only these, with commas between")
    parser.add_argument("--record", action="store_true", help="write ratios.txt")
    parser.add_argument("--record-to", default="", help="... or this file")
    parser.add_argument("--check", action="store_true", help="fail where a ratio fell far")
    parser.add_argument("--against", default=RECORDED, help="file of recorded ratios")
    parser.add_argument("--of", default="", help="measure nothing: the runs in these files of --json, with commas between")
    parser.add_argument("--json", default=os.path.join(BUILD, "bench.json"))
    return parser.parse_args()


def main():
    args = parse()
    if args.of:
        figures, where = read_figures(args.of.split(","))
    else:
        figures, where = run_gwbench(args.runs, args.quick, args.rows), machine()
    sizes = {} if args.rows else code_sizes()
    ratios = all_ratios(figures, sizes)
    recorded, cpu = read_recorded(args.against)
    print("%s, %d cores, Linux %s, load %.2f before; median (range) of %d runs\n"
          % (where["cpu"], where["cores"], where["kernel"], where["load"], max(map(len, figures.rows.values()))))
    print(table(figures, sizes) + "\n")
    share, name = server_share(figures)
    print("The server used at most %.0f%% of its client's CPU time (%s)%s.\n"
          % (share * 100, name, "" if share < 0.9 else ": IT IS THE BOTTLENECK, the figures say little"))
    if args.check:
        repeat_what_fell(ratios, recorded, args)
    print_changes(ratios, recorded)
    with open(args.json, "w") as file:
        json.dump(summary(figures, ratios, sizes, where), file, indent=1)
    if args.record or args.record_to:
        write_recorded(args.record_to or RECORDED, ratios, where)
    if args.check:
        passed, failed = check(ratios, recorded, cpu == where["cpu"])
        print("ratios: %d passed, %d failed" % (passed, failed))
        return 1 if failed else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
