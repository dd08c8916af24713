"""What the tests in Python share: children that write JSON lines, the simulator, tail, and a small frame for tests.

Standard library only, for the system's Python 3. Programs are taken from $BUILD (default: build/ of the project);
$WRAP is put before tail, e.g. WRAP="valgrind -q --error-exitcode=99"."""
import atexit
import collections
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build"))
CERTS = os.path.join(ROOT, "tests", "certs")
TOKEN = "MTA5ODc2NTQzMjEwOTg3NjU0Mw.Sim.tests-only-not-a-real-token"
PATIENCE = float(os.environ.get("PATIENCE") or 20)      # seconds that a test waits for what should come at once

children = []


class Failed(Exception):
    """A test's expectation does not hold."""


def expect(condition, *words):
    if not condition:
        raise Failed(" ".join(str(word) for word in words))


def end_children():
    for child in list(children):
        child.end()


atexit.register(end_children)


class Overheard:
    """All that children print, and the files named in their arguments, searched for pieces of the tokens that they were
    given. tests/overheard does the same inside the programs of tests."""

    def __init__(self):
        self.pieces, self.texts, self.bytes, self.leaks = set(), 0, 0, []
        self.learn(TOKEN)

    def learn(self, token):
        for part in token.replace(".", " ").split():
            if len(part) >= 16:
                self.pieces |= {part[at:at + 10].encode() for at in range(len(part) - 9)}

    def hear(self, where, text):
        self.texts += 1
        self.bytes += len(text)
        if any(piece in text for piece in self.pieces):
            self.leaks.append("%s: %r" % (where, text[:1000]))

    def tell(self, name):
        folder = os.environ.get("GW_OVERHEARD")
        if folder:
            with open(os.path.join(folder, name), "a") as file:
                file.write("%s %d %d %d\n" % (name, self.texts, self.bytes, len(self.pieces)))


overheard = Overheard()


class Child:
    """A program that is read line by line by a thread; lines that are JSON objects are kept as such."""

    def __init__(self, argv, env=None, on_line=None):
        self.argv = argv
        overheard.learn((env or {}).get("DISCORD_TOKEN", ""))
        self.lines, self.errors, self.bad_lines = [], [], []
        self.changed = threading.Condition()
        self.on_line = on_line
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=env)
        self.readers = [threading.Thread(target=self.read_out, daemon=True),
                        threading.Thread(target=self.read_errors, daemon=True)]
        children.append(self)
        for reader in self.readers:
            reader.start()

    def read_out(self):
        for raw in self.process.stdout:
            overheard.hear(self.argv[0] + " on stdout", raw)
            try:
                line = json.loads(raw.decode("utf-8"))
            except ValueError:
                self.bad_lines.append(raw)
                continue
            if self.on_line:
                self.on_line(line)
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def read_errors(self):
        for raw in self.process.stderr:
            overheard.hear(self.argv[0] + " on stderr", raw)
            with self.changed:
                self.errors.append(raw.decode("utf-8", "replace"))
                self.changed.notify_all()

    def wait_for(self, wanted, seconds=PATIENCE, start=0):
        """The first line from index `start` on that `wanted`, a function or an "ev", accepts; None: it did not come."""
        accepts = wanted if callable(wanted) else lambda line: line.get("ev") == wanted
        until = time.monotonic() + seconds
        at = start
        with self.changed:
            while True:
                while at < len(self.lines):
                    if accepts(self.lines[at]):
                        return self.lines[at]
                    at += 1
                left = until - time.monotonic()
                if left <= 0 or (not self.readers[0].is_alive() and at == len(self.lines)):
                    return None
                self.changed.wait(min(left, 0.2))

    def of(self, ev):
        with self.changed:
            return [line for line in self.lines if line.get("ev") == ev]

    def said(self):
        """Everything on stderr."""
        with self.changed:
            return "".join(self.errors)

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=PATIENCE):
        """Its exit code, with all of its lines read; None if it does not end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        for reader in self.readers:
            reader.join(5)
        return code

    def hear_files(self):
        """Sessions and traces."""
        for path in self.argv[1:]:
            if os.path.isfile(path) and not path.startswith((CERTS, BUILD)):
                with open(path, "rb") as file:
                    overheard.hear(path, file.read())

    def end(self):
        if self in children:
            children.remove(self)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self.readers:
            reader.join(2)
        self.hear_files()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Tail(Child):
    """build/tail --json with the test CA; `url` None: it has to ask for it."""

    def __init__(self, url, *options, token=TOKEN, ca=os.path.join(CERTS, "ca.pem"), json_lines=True,
                 on_line=None, **more):
        env = {name: value for name, value in os.environ.items()
               if name not in ("DISCORD_TOKEN", "GW_INTENTS", "GW_LOG", "GW_URL", "GW_CA_FILE", "SSL_CERT_FILE")}
        for name, value in (("DISCORD_TOKEN", token), ("GW_URL", url), ("GW_CA_FILE", ca)):
            if value is not None:
                env[name] = value
        env.update(more)
        argv = shlex.split(os.environ.get("WRAP") or "") + [os.path.join(BUILD, "tail")]
        super().__init__(argv + (["--json"] if json_lines else []) + list(options), env, on_line)

    def events(self, sessions=None):
        """(session_id, s) of each dispatch, in the order printed. A shard's session begins with its READY; before the
        first one it is the shard's of `sessions`, a dictionary that is kept up to date: a restored session brings no
        READY."""
        sessions = {} if sessions is None else sessions
        with self.changed:
            lines = list(self.lines)
        found, waiting = [], {}         # waiting, by shard: its READY, whose session_id comes with the "ready" line
        for line in lines:
            shard = line.get("shard")
            if line.get("ev") == "ready":
                sessions[shard] = line["session_id"]
                if shard in waiting:
                    found[waiting.pop(shard)][0] = line["session_id"]
            elif line.get("ev") == "dispatch":
                if line["t"] == "READY":
                    waiting[shard] = len(found)
                found.append([None if line["t"] == "READY" else sessions.get(shard), line["s"]])
        return [tuple(event) for event in found]

    def peak_kib(self):
        """Most memory it ever had resident; None where the system does not tell."""
        try:
            with open("/proc/%d/status" % self.process.pid) as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            return None


class Gwsim(Child):
    """build/gwsim over TLS on a free port; script lines may be given later, too. Its log is its lines."""

    def __init__(self, *options, on_line=None):
        argv = [os.path.join(BUILD, "gwsim"), "--cert", os.path.join(CERTS, "server.pem"),
                "--key", os.path.join(CERTS, "server.key"), "--stdin"] + list(options)
        super().__init__(argv, on_line=on_line)
        listening = self.wait_for("listening")
        expect(listening, "the simulator did not start:", self.said())
        self.url = listening["url"]
        self.api_url = self.url.replace("wss:", "https:")       # for those who ask /gateway/bot

    def command(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass                    # it has ended; whoever waits for the effect will say so

    def sent(self):
        """(number of the session, s) -> name, of all that it put on a wire."""
        return {(line["session"], line["s"]): line["t"] for line in self.of("dispatch")}

    def violations(self, *allowed):
        return [line for line in self.of("violation") if line["rule"] not in allowed]


def in_order(events):
    """Does s only grow in each session? Sessions of several shards may come in turn."""
    last = {}
    for session, s in events:
        if s <= last.get(session, -1):
            return False
        last[session] = s
    return True


class Tally:
    """What the simulator sent, and what tail printed. The last 16 digits of a session_id are its number in the log."""

    def __init__(self, sim, *tails):
        names = sim.sent()
        got, sessions, self.each_in_order = [], {}, True
        for tail in tails:
            events = [(int(session[-16:], 16) if session else 0, s) for session, s in tail.events(sessions)]
            got += events
            self.each_in_order &= in_order(events)
        arrived = set(got)
        # A RESUMED belongs to one connection alone, and that may be cut before it arrives: nobody will repeat it.
        self.sent = [key for key, name in names.items() if name != "RESUMED" or key in arrived]
        self.delivered = len(arrived & set(self.sent))
        self.lost = [key for key in self.sent if key not in arrived]
        self.doubled = [key for key, count in collections.Counter(got).items() if count > 1]
        self.invented = [key for key in arrived if key not in names]
        self.in_order = in_order(got)       # over all tails; each_in_order: in each of them

    def perfect(self):
        return not (self.lost or self.doubled or self.invented) and self.in_order

    def __str__(self):
        return "sent %d, delivered %d, lost %d %s, doubled %d %s, invented %d %s%s" % (
            len(self.sent), self.delivered, len(self.lost), self.lost[:5], len(self.doubled), self.doubled[:5],
            len(self.invented), self.invented[:5], "" if self.in_order else ", not in order")


def settle(sim, *tails, seconds=PATIENCE):
    """Stops the stream of events, gives what is on its way time to arrive, and counts."""
    sim.command("rate 0")
    sim.command("note settled")
    heard = sim.wait_for(lambda line: line["ev"] == "note" and line["text"] == "settled", seconds)
    expect(heard, "the simulator is stuck")
    until = time.monotonic() + seconds
    while Tally(sim, *tails).lost and time.monotonic() < until:
        time.sleep(0.05)
    return Tally(sim, *tails)


def build_asking(folder, name, api_url):
    """A program of examples/, built to ask for the Gateway's URL at `api_url`; its path."""
    path = os.path.join(folder, name)
    words = [shlex.split(os.environ.get(variable) or usual) for variable, usual in (
        ("CC", "cc"), ("CPPFLAGS", ""), ("CFLAGS", ""), ("LDFLAGS", ""), ("LDLIBS", "-lbearssl -lpthread"))]
    compiler, cppflags, cflags, ldflags, ldlibs = words
    done = subprocess.run(
        compiler + ["-std=c99", "-O0", "-I" + ROOT] + cppflags + cflags + ["-DGW_API_URL=\"%s\"" % api_url]
        + ldflags + [os.path.join(ROOT, "examples", name + ".c"), "-o", path] + ldlibs,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0, name, "does not build:", done.stdout.decode("utf-8", "replace")[:2000])
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_file(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return path


# ---- a frame for tests: @test functions, each a behaviour ----------------------------------------
tests = []


def test(function):
    tests.append(function)
    return function


def main(name):
    """Runs all tests, or those whose name contains an argument; the last line counts them. Gives the exit code."""
    for program in ("tail", "gwsim"):
        if not os.access(os.path.join(BUILD, program), os.X_OK):
            print("%s is not there; `make` builds it\n%s: 0 passed, 1 failed" % (os.path.join(BUILD, program), name))
            return 1
    passed = failed = 0
    wanted = [word for word in sys.argv[1:] if word != "-v"]
    for function in tests:
        if wanted and not any(word in function.__name__ for word in wanted):
            continue
        started = time.monotonic()
        try:
            function()
            passed += 1
            verdict = "ok"
        except Failed as fault:
            failed += 1
            verdict = "FAILED: %s" % fault
        except Exception:
            failed += 1
            verdict = "FAILED: " + traceback.format_exc()
        end_children()
        if "-v" in sys.argv or verdict != "ok":
            print("%s (%.1f s): %s" % (function.__name__, time.monotonic() - started, verdict), flush=True)
    for leak in overheard.leaks:
        failed += 1
        print("a piece of the token is in " + leak)
    overheard.tell(name)
    print("%s: %d passed, %d failed" % (name, passed, failed), flush=True)
    return 1 if failed or not passed else 0
