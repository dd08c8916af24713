#!/usr/bin/python3
"""build/replay as a user would try it: sessions of tail, recorded, and replayed offline.

  /usr/bin/python3 tests/replay_test.py [-v] [part of a test's name]"""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from support import BUILD, Gwsim, Tail, expect, main, overheard, test

folder = tempfile.TemporaryDirectory()


def replay(text, *arguments, name="trace"):
    """(exit code, standard output) of a replay of this text."""
    path = os.path.join(folder.name, name)
    with open(path, "wb") as file:
        file.write(text)
    done = subprocess.run([os.path.join(BUILD, "replay")] + (list(arguments) or [path]), input=text,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    for said in (done.stdout, done.stderr):
        overheard.hear("replay", said)
    expect(done.returncode in (0, 1, 2), done.returncode, done.stderr[-500:])
    return done.returncode, done.stdout.decode()


def replays(text, least):
    code, said = replay(text)
    last = said.splitlines()[-1]
    expect(code == 0 and last.endswith(": 0 differences"), said[:3000])
    expect(int(last.split()[0]) >= least, last)


class Timed(Tail):
    """tail with its log at trace; when each line of it was read is kept."""

    def __init__(self, url, *options):
        self.began, self.at = time.monotonic(), []
        super().__init__(url, *options, GW_LOG="trace", GW_INTENTS="53608447")

    def read_errors(self):
        for raw in self.process.stderr:
            with self.changed:
                self.at.append((int((time.monotonic() - self.began) * 1000), raw))
                self.errors.append(raw.decode())
                self.changed.notify_all()

    def log(self):
        return b"".join(raw for _, raw in self.at)

    def trace(self):
        """As tail --trace FILE writes it."""
        rows = []
        for ms, raw in self.at:
            at = raw.find(b"{")
            if at > 1 and raw[at - 2:at] in (b"< ", b"> "):
                way = "in" if raw[at - 2:at] == b"< " else "out"
                rows.append(b'{"ms":%d,"shard":0,"dir":"%s","payload":%s}\n' %
                            (ms, way.encode(), raw[at:].rstrip()))
        return b"".join(rows)


def live(seconds, commands, *options):
    """A session of so many seconds, with commands for the simulator at their times."""
    with Gwsim("--rate", "20", "--interval", "1500") as sim:
        tail = Timed(sim.url, "--for", str(seconds), *options)
        expect(tail.wait_for("ready"), tail.said()[-500:])
        timers = [threading.Timer(at, sim.command, [text]) for at, text in commands]
        for timer in timers:
            timer.start()
        expect(tail.wait(seconds + 20) == 0, tail.said()[-500:])
        for timer in timers:
            timer.join()
        expect(not sim.violations(), sim.violations())
        return tail


def story():
    faults = ((1, "cut_inside_frame"), (2, "op7"), (3, "op1"), (3.2, "big 300000"),
              (4, "close 4000"))
    return live(6, faults, "--max-payload", "200000")


@test
def a_recorded_session_is_replayed_without_a_difference():
    tail = story()
    for word in ('"t":"READY"', '"t":"RESUMED"', '{"op":7,', '"bytes":'):
        expect(word in tail.said(), word)
    replays(tail.trace(), 100)
    replays(tail.log(), 100)            # without times, among other lines


@test
def a_changed_recording_is_told():
    rows = story().trace().splitlines(True)
    beat = next(i for i, row in enumerate(rows) if b'{"op":1,' in row and b'"out"' in row)
    resume = next(i for i, row in enumerate(rows) if b'{"op":6,' in row)
    for index, key in ((beat, "d"), (resume, "seq")):
        row = json.loads(rows[index])
        inner = row["payload"] if key == "d" else row["payload"]["d"]
        inner[key] += 1
        changed = json.dumps(row).encode() + b"\n"
        code, said = replay(b"".join(rows[:index] + [changed] + rows[index + 1:]))
        expect(code == 1 and said.splitlines()[-1].endswith(": 1 differences"), said[:3000])
        where = "line %d (shard 0): it was sent differently" % (index + 1)
        expect(said.startswith(where), said[:300])


@test
def tails_own_trace_is_replayed():
    path = os.path.join(folder.name, "own")
    live(4, ((1, "cut"), (2, "op9 false")), "--trace", path)
    with open(path, "rb") as file:
        replays(file.read(), 50)


@test
def a_restart_with_a_saved_session_is_replayed():
    session = os.path.join(folder.name, "session")
    with Gwsim("--rate", "20", "--interval", "1500") as sim:
        first = Timed(sim.url, "--session", session)
        expect(first.wait_for("ready"))
        time.sleep(1.5)
        first.process.terminate()
        expect(first.wait() == 0)
        second = Timed(sim.url, "--session", session, "--for", "3")
        expect(second.wait(20) == 0, second.said()[-500:])
        expect('> {"op":6,' in second.said() and '> {"op":2,' not in second.said())
        replays(second.trace(), 40)
        replays(second.log(), 40)


@test
def what_is_no_recording_is_told():
    head = b'{"ms":1,"shard":0,"dir":"in"'
    for text, words in ((b"", "no payload"), (b"hello\n", "no payload"),
                        (head + b"}\n", "cannot be read"),
                        (head + b',"payload":{"op":10,}}\n{"a":1}\n', "cannot be read")):
        code, said = replay(text)
        expect(code == 1 and words in said, code, said)
        expect(said.splitlines()[-1].endswith("differences"), said)
    expect(replay(b"", os.path.join(folder.name, "nothing"))[0] == 1)
    expect(replay(b"", "a", "b")[0] == 2)


@test
def a_recording_may_come_through_a_pipe():
    hello = b'< {"op":10,"d":{"heartbeat_interval":45000}}\n'
    identify = b'> {"op":2,"d":{"token":"***","intents":1,"properties":{}}}\n'
    code, said = replay(hello + identify, "-")
    expect(code == 0 and said == "2 payloads, 1 connections, 1 shards: 0 differences\n", said)


if __name__ == "__main__":
    code = main("replay_test")
    folder.cleanup()
    sys.exit(code)
