#!/usr/bin/python3
"""tail --json loses nothing and doubles nothing over 1,000 cuts at random places, over cuts of four shards in turn,
nor over restarts with --session.

  CUTS=100 SEED=7 python3 tests/cuts_test.py [-v]

The simulator streams events; each time that tail has resumed, the next end of its connection is drawn: before, inside
or after a frame, by FIN, by RST, by a close code, by op 7, by silence; at times while tail comes back, too. In the end
the simulator's log of what it sent is compared with the lines of tail."""
import os
import random
import signal
import sys
import tempfile
import threading
import time

from support import Gwsim, Tail, Tally, expect, main, settle, test

CUTS = int(os.environ.get("CUTS") or 1000)
SEED = int(os.environ.get("SEED") or random.randrange(1 << 30))
SECONDS = float(os.environ.get("SECONDS") or 200)
EVENTS_PER_SECOND = 1000
RESTARTS = 1 + CUTS // 40

ENDS = {                # how a connection ends, and how often among others
    "cut_inside_frame": 300, "cut_before_frame": 120, "cut_after_frame": 120, "cut": 150, "reset": 120,
    "fragments 5\ncut_inside_frame": 40, "one_byte\ncut_inside_frame": 10, "key_order\ncut_inside_frame": 30,
    "op7": 40, "close 1000": 8, "close 1001": 8, "close 4000": 8, "close 4002": 4, "close_empty": 8, "garbage": 10,
    "freeze": 4,
}
ON_THE_WAY_BACK = [     # armed together with one of these ends; each costs a backoff of up to a second
    "next 1 cut", "next 1 reset", "on upgrade x1 cut", "on hello x1 cut", "on hello x1 cut_after_frame",
    "on resume x1 cut_inside_frame", "on resume x1 cut_before_frame", "on resume x1 reset", "next 1 http 503",
    "on resume x1 +2 cut", "on resume x1 fragments 2",
]


class Cutter:
    """Watches the simulator's log, and ends each connection some milliseconds after its READY or RESUMED."""

    def __init__(self, rng, cuts):
        self.rng, self.cuts, self.sim = rng, cuts, None
        self.ended, self.drawn = 0, {}
        self.enough = threading.Event()

    def on_line(self, line):
        if line["ev"] == "hangup":
            self.ended += 1
            if self.ended >= self.cuts:
                self.enough.set()
        if line["ev"] == "dispatch" and line["t"] in ("READY", "RESUMED") and not self.enough.is_set():
            self.end(line["conn"])

    def end(self, conn):
        how = self.rng.choices(list(ENDS), list(ENDS.values()))[0]
        self.drawn[how] = self.drawn.get(how, 0) + 1
        delay_ms = self.rng.choice((0, 1, 2, 3, 5, 8, 12, 40))
        if self.rng.random() < 0.03:
            self.sim.command(self.rng.choice(ON_THE_WAY_BACK))
        for order in how.split("\n"):
            self.sim.command("to %d at %d %s" % (conn, delay_ms, order))


def cut_at_random(cuts, shards):
    started = time.monotonic()
    cutter = Cutter(random.Random(SEED), cuts)
    # An interval of a second, so that a frozen connection is found dead in two.
    with Gwsim("--rate", "0", "--interval", "1000", "--seed", str(SEED % 100000), "--max-concurrency", str(shards),
               on_line=cutter.on_line) as sim:
        cutter.sim = sim
        sim.command("rate %d" % (EVENTS_PER_SECOND // shards))
        with Tail(None, "--shards", str(shards), GW_API_URL=sim.api_url) if shards > 1 else Tail(sim.url) as tail:
            cutter.enough.wait(SECONDS)
            seconds = time.monotonic() - started
            expect(cutter.enough.is_set(), "seed", SEED, ": only", cutter.ended, "cuts in", SECONDS, "s;",
                   tail.lines[-6:], tail.said())
            settle(sim, tail)
            tail.send_signal(signal.SIGTERM)
            expect(tail.wait() == 0, "seed", SEED, ": tail's exit code", tail.process.returncode, tail.said())
            tally = Tally(sim, tail)
            resumed = len(tail.of("resumed"))
            print("%d connections ended (%d at a time), %d resumed, in %.1f s (seed %d): %s" % (
                cutter.ended, shards, resumed, seconds, SEED, tally))
            if "-v" in sys.argv:
                print(cutter.drawn)
            expect(tally.perfect(), "seed", SEED, ":", tally)
            expect(len(tail.of("ready")) == shards, "seed", SEED, ": a session was given up", tail.of("session_lost"))
            expect(not tail.bad_lines, "lines that are no JSON:", tail.bad_lines[:3])
            # After a connect that failed the other address is tried: it resumes there, and the simulator notes it.
            strange = sim.violations("resume_on_wrong_url")
            expect(not strange, "seed", SEED, ": the simulator complains:", strange[:5])


@test
def nothing_is_lost_or_doubled_over_random_cuts():
    cut_at_random(CUTS, 1)


@test
def nothing_is_lost_or_doubled_over_random_cuts_of_four_shards():
    cut_at_random(max(CUTS // 4, 20), 4)


@test
def nothing_is_lost_or_doubled_over_random_restarts():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder, Gwsim("--rate", "500", "--do", "every 700 cut_inside_frame") as sim:
        tails = []
        for restart in range(RESTARTS + 1):
            tail = Tail(sim.url, "--session", os.path.join(folder, "session"))
            tails.append(tail)
            if restart in (0, RESTARTS):
                expect(tail.wait_for("ready" if restart == 0 else "resumed"), tail.lines[-3:], tail.said())
            if restart == RESTARTS:
                break
            time.sleep(rng.choice((0, 0.005, 0.01, 0.02, 0.1, 0.5)) * rng.random())
            number = rng.choice((signal.SIGTERM, signal.SIGINT))
            tail.send_signal(number)
            code = tail.wait()
            expect(code in (0, -number), "exit code", code, tail.said())    # -number: not even started
        tally = settle(sim, *tails)
        print("%d restarts (seed %d): %s" % (RESTARTS, SEED, tally))
        expect(tally.perfect(), "seed", SEED, ":", tally)
        expect(len(sim.of("identify")) == 1, "the session was given up")


if __name__ == "__main__":
    raise SystemExit(main("cuts_test"))
