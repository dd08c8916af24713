#!/usr/bin/python3
"""examples/reshard.c against the simulator: from few shards to more, and no event between them is missed.

  python3 tests/reshard_test.py [-v] [part of a test's name]"""
import os
import re
import signal
import subprocess
import tempfile
import threading
import time

from support import BUILD, CERTS, PATIENCE, TOKEN, Failed, Gwsim, build_asking, expect, main, overheard, test

LINE = re.compile(r"(old|new) (\d+)/\d+  ([A-Z_]+)(?:  s (\d+)  id (\d+))?")


class Reshard:
    """The program, read line by line."""

    def __init__(self, *arguments, path=os.path.join(BUILD, "reshard"), url=None, token=TOKEN):
        env = {name: value for name, value in os.environ.items() if name not in ("DISCORD_TOKEN", "GW_URL")}
        env.update(GW_CA_FILE=os.path.join(CERTS, "ca.pem"))
        for name, value in (("DISCORD_TOKEN", token), ("GW_URL", url)):
            if value is not None:
                env[name] = value
        self.lines = []
        self.process = subprocess.Popen([path] + list(arguments), env=env, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, universal_newlines=True)
        self.reader = threading.Thread(target=lambda: self.lines.extend(
            line.rstrip("\n") for line in iter(self.process.stdout.readline, "")), daemon=True)
        self.reader.start()

    def wait_for(self, words, seconds=40):
        until = time.monotonic() + seconds
        while not any(words in line for line in list(self.lines)):
            if time.monotonic() > until or not self.reader.is_alive():
                raise Failed('"%s" did not come: %s' % (words, self.lines[-6:]))
            time.sleep(0.02)

    def ends(self, code):
        """Its stderr."""
        try:
            got = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed("it does not end: %s" % self.lines[-6:])
        self.reader.join(5)
        said = self.process.stderr.read()
        overheard.hear("reshard on stderr", said.encode())
        expect(got == code, "exit code", got, "instead of", code, said, self.lines[-6:])
        return said

    def printed(self):
        """(set, shard) -> the ids that it printed of MESSAGE_CREATE, in order."""
        found = {}
        for line in list(self.lines):
            match = LINE.match(line)
            if match and match.group(3) == "MESSAGE_CREATE":
                found.setdefault((match.group(1), int(match.group(2))), []).append(int(match.group(5)))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)
        for line in self.lines:
            overheard.hear("reshard", line.encode())
        self.process.stdout.close()
        self.process.stderr.close()


class Speaker:
    """Writes a numbered message each 10 ms: the simulator brings it to all that are connected just then."""

    def __init__(self, sim):
        self.sim, self.count, self.silent = sim, 0, threading.Event()
        self.thread = threading.Thread(target=self.speak, daemon=True)
        self.thread.start()

    def speak(self):
        while not self.silent.wait(0.01):
            self.count += 1
            self.sim.command('event MESSAGE_CREATE {"id":"%d","content":"x"}' % self.count)

    def end(self):
        self.silent.set()
        self.thread.join()


def all_is_seen(sim, reshard, old_total, new_total):
    """Each message was printed by all shards of the old set or by all of the new one."""
    reshard.wait_for("old 0/%d  READY" % old_total)
    reshard.wait_for("-- the old set is live")
    speaker = Speaker(sim)
    reshard.wait_for("-- the new set is live")
    reshard.wait_for("-- the old set ends")
    reshard.wait_for("old      CLOSED")
    time.sleep(0.3)
    speaker.end()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not all(
            speaker.count in reshard.printed().get(("new", shard), ()) for shard in range(new_total)):
        time.sleep(0.05)
    reshard.process.send_signal(signal.SIGINT)
    said = reshard.ends(0)
    expect(not said, said)
    printed = reshard.printed()
    for ids in printed.values():
        expect(ids == sorted(set(ids)), "not in order, or twice:", ids)
    by_old = set.intersection(*(set(printed[("old", shard)]) for shard in range(old_total)))
    by_new = set.intersection(*(set(printed[("new", shard)]) for shard in range(new_total)))
    missed = set(range(1, speaker.count + 1)) - by_old - by_new
    expect(not missed, len(missed), "of", speaker.count, "messages were missed:", sorted(missed)[:5])
    expect(by_old & by_new, "the sets were never live together")
    expect(by_new - by_old, "the old set did not end")
    expect(not sim.violations(), sim.violations())
    identified = [line["shard"] for line in sim.of("identify")]
    expect(sorted(identified) == sorted([[shard, total] for total in (old_total, new_total) for shard in range(total)]),
           identified)


@test
def one_shard_becomes_two_without_a_gap():
    with Gwsim("--quiet") as sim, Reshard("1", "2", url=sim.url) as reshard:
        all_is_seen(sim, reshard, 1, 2)


@test
def two_shards_become_four_in_the_buckets_that_discord_allows():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--quiet", "--max-concurrency", "4", "--shards", "4") as sim:
        path = build_asking(folder, "reshard", sim.api_url)
        with Reshard("2", "4", path=path) as reshard:
            all_is_seen(sim, reshard, 2, 4)


@test
def the_old_set_goes_on_where_the_new_one_fails():
    with Gwsim("--quiet") as sim, Reshard("1", "2", url=sim.url) as reshard:
        reshard.wait_for("-- the old set is live")
        sim.command("on identify x1 close 4014")
        reshard.wait_for("-- the new set failed")
        sim.command('event MESSAGE_CREATE {"id":"77"}')
        reshard.wait_for("id 77")
        reshard.process.send_signal(signal.SIGTERM)
        expect("privileged" in reshard.ends(1), "it does not say why")


@test
def used_wrongly_it_says_so():
    for arguments in ((), ("1",), ("0", "2"), ("1", "x"), ("1", "2", "3"), ("1", "16385")):
        with Reshard(*arguments) as reshard:
            expect("usage:" in reshard.ends(2), arguments)
    with Reshard("1", "2", token=None) as reshard:
        expect("token is missing" in reshard.ends(1), "it does not ask for a token")


if __name__ == "__main__":
    raise SystemExit(main("reshard_test"))
