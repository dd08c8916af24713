#!/usr/bin/env python3
"""Draws bench.json as SVG: CPU time an event, as bars, the bare loop's share in another colour.

    python3 tests/bench/plot.py build/bench.json build/bench.svg
"""
import json
import sys

WIDTH, LEFT, BAR, GAP, TOP, RIGHT = 760, 250, 22, 10, 62, 90
INK, SOFT, BARE, OURS, GOAL = "#24292f", "#6e7781", "#8c959f", "#3b6fd4", "#d1242f"
ROWS = [
    ("bare", "bare BearSSL loop", None),
    ("filtered", "nine of ten filtered", 0.80),
    ("unread", "handed out, not read", 0.60),
    ("three", "three fields of each message", 0.35),
    ("every", "every value visited", 0.22),
    ("bare_record", "bare loop, one record an event", None),
    ("record", "one record an event", 0.90),
]


def text(x, y, words, anchor="start", colour=INK, size=13, weight="normal"):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d" font-weight="%s">%s</text>' % (
        x, y, anchor, colour, size, weight, words.replace("&", "&amp;").replace("<", "&lt;"))


def rect(x, y, width, height, colour):
    return '<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>' % (x, y, width, height, colour)


def cost_us(rows, name):
    """CPU µs an event: median, least, most."""
    figures = rows[name]["cpu_s"]
    return [figures[kind] / rows[name]["events"]["median"] * 1e6 for kind in ("median", "min", "max")]


def bar(rows, name, words, goal, y, scale):
    middle, least, most = cost_us(rows, name)
    base = "bare_record" if "record" in name else "bare"
    bare = cost_us(rows, base)[0]
    yield text(LEFT - 10, y + BAR * 0.7, words, "end")
    yield rect(LEFT, y, middle * scale, BAR, BARE if name == base else OURS)
    if name != base:
        yield rect(LEFT, y, min(bare, middle) * scale, BAR, BARE)
    yield '<path d="M%.1f %.1fH%.1f" stroke="%s"/>' % (LEFT + least * scale, y + BAR / 2, LEFT + most * scale, INK)
    if goal:
        yield rect(LEFT + bare / goal * scale - 1, y - 2, 2, BAR + 4, GOAL)
    yield text(LEFT + max(most, bare / goal if goal else 0) * scale + 8, y + BAR * 0.7, "%.2f" % middle)


def draw(data):
    rows = data["rows"]
    shown = [row for row in ROWS if row[0] in rows]
    goals = [cost_us(rows, "bare")[0] / goal for _, _, goal in shown if goal]
    widest = max([cost_us(rows, name)[2] for name, _, _ in shown] + goals)
    scale = (WIDTH - LEFT - RIGHT) / widest
    height = TOP + len(shown) * (BAR + GAP) + 34
    yield '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">' % (WIDTH, height)
    yield rect(0, 0, WIDTH, height, "#ffffff")
    yield text(16, 26, "CPU time of an event, µs (shorter is better)", size=16, weight="bold")
    yield text(16, 46, "grey: what the bare loop needs (TLS and kernel); blue: the library; red line: its goal",
               colour=SOFT)
    for at, (name, words, goal) in enumerate(shown):
        yield from bar(rows, name, words, goal, TOP + at * (BAR + GAP), scale)
    yield text(16, height - 12, "%s, Linux %s; median, thin line: range of %d runs" % (
        data["machine"]["cpu"], data["machine"]["kernel"], len(rows["bare"]["cpu_s"]["runs"])), colour=SOFT, size=11)
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        data = json.load(file)
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(draw(data)) + "\n")


if __name__ == "__main__":
    main()
