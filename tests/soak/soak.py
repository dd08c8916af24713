#!/usr/bin/python3
"""The soak: the real client (build/tail) over real TCP and TLS, between two network namespaces, over a bad line.

  make soak                     SOAK_SECONDS=1800 SOAK_SEED=... ; as root; SOAK_PROXY=1 does without /dev/net/tun,
                                SOAK_LOG=FILE keeps faults and what the clients said about their connections

Two clients on one simulator (build/gwsim): the steady one, shards 0 and 1 of 3, is one process for all of the time, and
its memory is measured; the traveller, shard 2, is ended and killed, and goes on from its session file. Between them
and the simulator stands relay.py, which loses, doubles, delays, reorders and corrupts packets, limits their rate, lets
one direction go dark, and lets flows die without a word. Clients and simulator are stopped (SIGSTOP) and go on, the
simulator ends, is killed and starts anew, and cuts connections by itself.

Exit code 0: each event of a session that could be resumed came at least once, in order, and exactly once but for
events that a killed process had printed; and the memory of the steady client did not grow.
Half a minute of the worst faults and half a minute of milder ones take turns."""
import collections
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from support import BUILD, CERTS, Child, Failed, Tail, expect     # noqa: E402

SECONDS = float(os.environ.get("SOAK_SECONDS") or 1800)
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(1 << 30))
PROXY = bool(os.environ.get("SOAK_PROXY")) or not os.path.exists("/dev/net/tun")
SHARDS, EVENTS_PER_SECOND, INTERVAL_MS = 3, 40, 5000
SETTLE_SECONDS = 180            # a client may be in a backoff of a minute
GROWTH_KIB = 256                # what the allocator and the DNS thread may sway by
NAME = "gateway.test"
NAMESPACES = CLIENT_NS, GATEWAY_NS = "gwsoak-%d-c" % os.getpid(), "gwsoak-%d-g" % os.getpid()
ADDRESSES = ("127.0.0.1", "127.0.0.1") if PROXY else ("10.77.0.1", "10.77.0.2")
# What the line, a stopped process or a late packet brings about; all else is the client's own fault.
EXCUSED = ("resume_on_wrong_url", "heartbeat_missed", "ignored_op7", "ignored_op9", "identify_too_fast",
           "no_close_answer", "stale_heartbeat", "slow_client")


log_file = open(os.environ["SOAK_LOG"], "w") if os.environ.get("SOAK_LOG") else None
began = time.monotonic()


def log(who, what):
    if log_file:
        print("%8.3f %-10s %s" % (time.monotonic() - began, who, what), file=log_file, flush=True)


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0, " ".join(argv), ":", done.stdout.decode("utf-8", "replace")[-500:])
    return done.stdout.decode()


# ---- namespaces ----------------------------------------------------------------------------------

def remove_leftovers():
    """Those of a soak that was killed, with the programs in them."""
    for line in run("ip", "netns", "list").splitlines():
        found = re.match(r"gwsoak-(\d+)-[cg]\b", line)
        if found and not os.path.exists("/proc/" + found.group(1)):
            for pid in run("ip", "netns", "pids", found.group(0)).split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", found.group(0))


def make_namespaces():
    for namespace in NAMESPACES:
        run("ip", "netns", "add", namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c",
                        "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"], stderr=subprocess.DEVNULL)


def raise_devices():
    for namespace, ours, theirs in zip(NAMESPACES, ADDRESSES, reversed(ADDRESSES)):
        run("ip", "-n", namespace, "addr", "add", ours, "peer", theirs, "dev", "line")
        run("ip", "-n", namespace, "link", "set", "line", "mtu", "1500", "up")


def remove_namespaces():
    for namespace in NAMESPACES:
        if os.path.exists("/run/netns/" + namespace):
            subprocess.run(["ip", "netns", "del", namespace])


def make_certificate(folder):
    """For NAME: "localhost" would never leave the client's namespace."""
    key, request, leaf, extensions = (os.path.join(folder, name) for name in ("key", "request", "leaf", "extensions"))
    with open(extensions, "w") as file:
        file.write("basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
                   "subjectAltName=DNS:%s\n" % NAME)
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    run("openssl", "req", "-new", "-key", key, "-subj", "/CN=" + NAME, "-out", request)
    run("openssl", "x509", "-req", "-in", request, "-CA", os.path.join(CERTS, "ca.pem"), "-CAkey",
        os.path.join(CERTS, "ca.key"), "-set_serial", "7", "-days", "30", "-extfile", extensions, "-out", leaf)
    return leaf, key


# ---- the accounts --------------------------------------------------------------------------------

class Session:
    def __init__(self, life, number, shard):
        self.life, self.number, self.shard = life, number, shard
        self.sent = {}              # s -> name, by the simulator's log
        self.got = {}               # s -> the process that printed it last
        self.claimed = False        # its READY has arrived
        self.forgotten = False      # its process was killed before it was saved

    def missing(self):
        # A RESUMED belongs to one connection alone, and nobody will repeat it.
        return [s for s, name in self.sent.items() if s not in self.got and name != "RESUMED"]


class Ledger:
    def __init__(self):
        self.lock = threading.RLock()
        self.sessions, self.by_id = {}, {}              # (life, number) -> Session
        self.counts, self.rules, self.faults = (collections.Counter() for _ in range(3))
        self.doubled, self.disordered, self.strange = [], [], []
        self.given_up = collections.Counter()

    def session(self, life, number, shard=None):
        session = self.sessions.get((life, number))
        if not session:
            session = self.sessions[life, number] = Session(life, number, shard)
        return session

    def claim(self, life_now, shard, session_id):
        """Whose READY this is: the newest of this number and shard that nobody has claimed."""
        number = int(session_id[-16:], 16)
        for session in sorted(self.sessions.values(), key=lambda session: -session.life.index):
            if session.number == number and session.shard == shard and not session.claimed:
                break
        else:                       # the simulator was killed before it wrote its log
            session = self.session(life_now, number, shard)
        session.claimed = True
        self.by_id[session_id] = session
        return session

    def take(self, process, session, s):
        last = process.last.get(session, 0)
        if s <= last:
            (self.doubled if s in session.got else self.disordered).append((process.name, session.number, s))
        elif s in session.got and not session.got[s].killed:
            self.doubled.append((process.name, session.number, s))
        elif s in session.got:
            self.counts["again after a kill"] += 1
        process.last[session] = max(s, last)
        session.got[s] = process

    def close(self):
        """(sent, delivered, lost, gone with their session, invented)."""
        with self.lock:
            sent = delivered = 0
            lost, gone, invented = [], collections.Counter(), []
            for session in self.sessions.values():
                missing = session.missing()
                sent += sum(1 for s, name in session.sent.items() if name != "RESUMED" or s in session.got)
                delivered += sum(1 for s in session.got if s in session.sent)
                unknown = [s for s in session.got if s not in session.sent]
                most = max(session.sent, default=0)
                invented += [s for s in unknown if not (session.life.killed and s > most)]
                last = max(session.got, default=0)
                holes, rest = [s for s in missing if s < last], [s for s in missing if s > last]
                lost += [(session.life.index, session.number, s) for s in holes]
                why = ("their READY never came" if not session.claimed else
                       "the simulator was restarted" if session.life.over else
                       "a killed client had not saved the session" if session.forgotten else None)
                if rest and why:
                    gone[why] += len(rest)
                elif rest:
                    lost += [(session.life.index, session.number, s) for s in rest]
            return sent, delivered, lost, gone, invented


class Quiet:
    """Keeps no line of a dispatch: there are too many."""

    def read_out(self):
        for raw in self.process.stdout:
            try:
                line = json.loads(raw.decode("utf-8"))
            except ValueError:
                self.bad_lines.append(raw)
                continue
            self.on_line(line)
            if line["ev"] not in ("dispatch", "heartbeat"):
                with self.changed:
                    self.lines.append(line)
                    del self.lines[:-2000]
                    self.changed.notify_all()


class Life(Quiet, Child):
    """One life of the simulator."""

    def __init__(self, index, ledger, cert, key, first):
        self.index, self.ledger, self.killed, self.over = index, ledger, False, False
        self.shards = {}            # connection -> the shard that identified
        super().__init__(["ip", "netns", "exec", GATEWAY_NS, os.path.join(BUILD, "gwsim"), "--cert", cert, "--key", key,
                          "--stdin", "--host", ADDRESSES[1], "--port", "443", "--url", "wss://" + NAME, "--seed",
                          str(SEED % 100000 * 10000 + index), "--rate", str(EVENTS_PER_SECOND), "--interval",
                          str(INTERVAL_MS), "--max-concurrency", str(SHARDS), "--shards", str(SHARDS), "--guilds",
                          str(3 * SHARDS), "--session-ttl", "3600000", "--for", str(SECONDS + 900)],
                         on_line=self.hear)
        if not self.wait_for("listening") and first:
            raise Failed("the simulator did not start: " + self.said())

    def hear(self, line):
        ledger = self.ledger
        if line["ev"] not in ("dispatch", "heartbeat"):
            log("simulator", line)
        with ledger.lock:
            if line["ev"] == "identify":
                self.shards[line["conn"]] = line["shard"][0]
                ledger.counts["identifies"] += 1
            elif line["ev"] == "dispatch":
                session = ledger.session(self, line["session"], self.shards.get(line["conn"]))
                session.sent[line["s"]] = line["t"]
            elif line["ev"] == "resume":
                ledger.counts["resumes asked for"] += 1
            elif line["ev"] == "violation":
                ledger.rules[line["rule"]] += 1
                if line["rule"] not in EXCUSED:
                    ledger.strange.append(line)

    def command(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def finish(self, number):
        self.killed, self.over = number == signal.SIGKILL, True
        self.send_signal(signal.SIGCONT)
        self.send_signal(number)
        self.wait(20)
        self.end()


class Process(Quiet, Tail):
    """One process of a client."""

    def __init__(self, soak, name, options, sessions):
        self.soak, self.name, self.killed, self.last = soak, name, False, {}
        self.current, self.pending = dict(sessions), {}     # by shard: its session; an s of a READY without its id
        self.lost_texts = []
        super().__init__(None, "--for", str(SECONDS + 900), *options, GW_API_URL="https://" + NAME,
                         on_line=self.hear)

    def hear(self, line):
        ledger, shard, ev = self.soak.ledger, line.get("shard"), line["ev"]
        if ev != "dispatch":
            log(self.name, line)
        with ledger.lock:
            if ev == "ready":
                self.current[shard] = ledger.claim(self.soak.life, shard, line["session_id"])
                ledger.take(self, self.current[shard], self.pending.pop(shard))
            elif ev == "dispatch" and line["t"] == "READY":
                self.pending[shard] = line["s"]
            elif ev == "dispatch":
                ledger.take(self, self.current[shard], line["s"])
            elif ev == "close":
                ledger.counts["connections lost"] += 1
                ledger.counts["closed: " + line["reason"]] += 1
            elif ev == "connecting":
                ledger.counts["connects"] += 1
            elif ev == "resumed":
                ledger.counts["resumes"] += 1
            elif ev == "skipped":
                ledger.take(self, self.current[shard], line["s"])
            elif ev in ("session_lost", "polled_late", "identify_held", "fatal"):
                ledger.counts[ev] += 1

    def rss_kib(self):
        with open("/proc/%d/status" % self.process.pid) as status:
            return next((int(line.split()[1]) for line in status if line.startswith("VmRSS")), None)


# ---- the faults ----------------------------------------------------------------------------------

class Soak:
    def __init__(self, folder):
        self.folder, self.rng, self.ledger = folder, random.Random(SEED), Ledger()
        self.life = self.relay = self.steady = self.traveller = None
        self.lives, self.memory, self.later = 0, [], []     # later: (when, what to do), of processes that are stopped
        self.line_counts, self.busy = {}, set()
        self.session_file = os.path.join(folder, "session")

    def start(self):
        remove_leftovers()
        make_namespaces()
        self.cert, self.key = make_certificate(self.folder)
        hosts = os.path.join(self.folder, "hosts")
        with open(hosts, "w") as file:
            file.write("%s %s\n" % (ADDRESSES[1], NAME))
        # In a mount namespace of its own, which `ip netns exec` makes.
        os.environ["WRAP"] = ("ip netns exec %s sh -c 'mount --bind %s /etc/hosts && exec \"$@\"' sh" %
                              (CLIENT_NS, hosts))
        self.relay = Child([sys.executable, os.path.join(HERE, "relay.py"), CLIENT_NS, GATEWAY_NS, str(SEED)] +
                           (["--proxy"] if PROXY else []), on_line=self.hear_relay)
        expect(self.relay.wait_for("up"), "the relay did not start:", self.relay.said())
        if not PROXY:
            raise_devices()
        self.start_life(first=True)
        self.steady = Process(self, "steady", ["--shards", "0-1/%d" % SHARDS], {})
        self.start_traveller()
        for client, shards in ((self.steady, 2), (self.traveller, 1)):
            expect(client.wait_for(lambda line: len(client.of("ready")) == shards, 60), client.name, "has no READY:",
                   client.lines[-5:], client.said())

    def hear_relay(self, line):
        if line["ev"] == "counts":
            self.line_counts = line
            del self.relay.lines[:-10]

    def order(self, **order):
        log("line", order)
        self.relay.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.relay.process.stdin.flush()

    def start_life(self, first=False):
        self.lives += 1
        self.life = Life(self.lives, self.ledger, self.cert, self.key, first)

    def start_traveller(self):
        sessions = {}
        with self.ledger.lock:
            if os.path.exists(self.session_file):
                with open(self.session_file) as file:
                    for line in file:
                        for session_id in re.findall(r"\b[0-9a-f]{32}\b", line):
                            if session_id in self.ledger.by_id:
                                sessions[int(line.split()[0])] = self.ledger.by_id[session_id]
            if self.traveller:
                for shard, session in self.traveller.current.items():
                    if sessions.get(shard) is not session and self.traveller.killed:
                        session.forgotten = True
        self.traveller = Process(self, "traveller", ["--shards", "2-2/%d" % SHARDS, "--session", self.session_file],
                                 sessions)

    def after(self, seconds, what):
        self.later.append((time.monotonic() + seconds, what))

    def stop(self, who, seconds):
        target = {"simulator": self.life, "steady": self.steady, "traveller": self.traveller}[who]
        self.busy.add(who)
        log("stop", "%s for %s s" % (who, seconds))
        target.send_signal(signal.SIGSTOP)

        def go_on():
            target.send_signal(signal.SIGCONT)
            self.busy.discard(who)
        self.after(seconds, go_on)

    def restart_simulator(self, number):
        self.life.finish(number)
        self.busy.add("simulator")

        def again():
            self.start_life()
            self.busy.discard("simulator")
        self.after(self.rng.choice((0, 0.5, 2, 6)), again)

    def restart_traveller(self, number):
        self.traveller.killed = number == signal.SIGKILL
        self.traveller.send_signal(number)
        code = self.traveller.wait(60)
        expect(code in (0, -number), "the traveller's exit code is", code, self.traveller.said())
        expect(self.traveller.killed or not self.traveller.bad_lines, "no JSON:", self.traveller.bad_lines)
        self.traveller.end()
        self.busy.add("traveller")

        def again():
            self.start_traveller()
            self.busy.discard("traveller")
        self.after(self.rng.choice((0, 0.2, 1, 3, 10)), again)

    def weather(self, mild):
        rng = self.rng
        kinds = ("calm", "lossy", "reordering", "doubling", "corrupting", "slow", "narrow", "awful")
        kind = rng.choice(kinds[:5] if mild else kinds)
        weather = {"delay_ms": rng.uniform(5, 60), "jitter_ms": rng.uniform(0, 10)}
        if kind in ("slow", "awful"):
            weather.update(delay_ms=rng.uniform(100, 400), jitter_ms=rng.uniform(20, 200))
        if kind in ("lossy", "awful"):
            weather["loss"] = rng.choice((0.01, 0.03, 0.08, 0.15))
        if kind in ("reordering", "awful"):
            weather["reorder"] = rng.uniform(0.02, 0.3)
        if kind in ("doubling", "awful"):
            weather["double"] = rng.uniform(0.02, 0.5)
        if kind == "corrupting":
            weather["corrupt"] = rng.choice((0.005, 0.05))
        if kind == "narrow":
            weather["bytes_per_s"] = rng.choice((40e3, 100e3, 200e3))
        self.order(weather=weather)
        return "weather: " + kind

    def fault(self, mild):
        """One of them; its name. Mild ones leave the line so good that the clients live in between."""
        rng = self.rng
        free = [who for who in ("simulator", "steady", "traveller") if who not in self.busy]
        which = rng.choices(("weather", "dark", "flows", "stop", "simulator", "term", "kill", "order", "big"),
                            (18, 0, 4, 4, 0, 12, 12, 30, 4) if mild else (24, 14, 12, 14, 3, 5, 5, 22, 3))[0]
        if which == "weather":
            return self.weather(mild)
        if which == "dark":
            way = rng.choice(("up", "down", "both"))
            self.order(dark=way, seconds=rng.choice((0.5, 1, 2, 4, 8, 15, 25)))
            return "dark: " + way
        if which == "flows":
            way = rng.choice(("up", "down", "both"))
            self.order(kill_flows=rng.choice((1, 1, 2, 3)), way=way)
            return "flows die: " + way
        if which == "stop" and free:
            who = rng.choice(free)
            self.stop(who, rng.choice((0.1, 1, 3, 8) if who == "simulator" else (0.1, 1, 3, 8, 16, 30)))
            return "SIGSTOP: " + who
        if which == "simulator" and "simulator" in free:
            number = rng.choice((signal.SIGTERM, signal.SIGKILL))
            self.restart_simulator(number)
            return "simulator restarted: " + number.name
        if which in ("term", "kill") and "traveller" in free:
            number = signal.SIGKILL if which == "kill" else rng.choice((signal.SIGTERM, signal.SIGINT))
            self.restart_traveller(number)
            return "client restarted: " + number.name
        if which == "order" and "simulator" in free:
            order = rng.choice(("cut", "cut_inside_frame", "cut_before_frame", "reset", "op7", "close 4000", "op9 true",
                                "freeze", "fragments 3"))
            self.life.command("shard %d %s" % (rng.randrange(SHARDS), order))
            return "simulator: " + order
        if which == "big" and "simulator" in free:
            self.life.command("shard %d big 150000" % rng.randrange(SHARDS))
            return "simulator: big"
        return None

    def look_after(self):
        now = time.monotonic()
        due = [each for each in self.later if each[0] <= now]
        self.later = [each for each in self.later if each[0] > now]
        for _, what in due:
            what()
        for child in (self.steady, self.traveller, self.life, self.relay):
            name = {self.steady: "steady", self.traveller: "traveller", self.life: "simulator"}.get(child, "relay")
            if name not in self.busy and child.process.poll() is not None:
                raise Failed("%s ended by itself, code %s: %s" % (name, child.process.returncode, child.said()))

    def storm(self, started):
        end, fault_at, memory_at, said_at = started + SECONDS, started, started, started + 60
        while time.monotonic() < end:
            self.look_after()
            now = time.monotonic()
            if now >= memory_at:
                self.memory.append((now - started, self.steady.rss_kib()))
                memory_at = now + 2
            if now >= fault_at:
                name = self.fault(mild=int((now - started) / 30) % 2)
                if name:
                    self.ledger.faults[name] += 1
                    log("fault", name)
                fault_at = now + self.rng.uniform(1, 5)
            if now >= said_at:
                sent, delivered, lost, gone, _ = self.ledger.close()
                print("%5.0f s: %d faults, %d resumes, sent %d, delivered %d, not yet there %d, RSS %s KiB" % (
                    now - started, sum(self.ledger.faults.values()), self.ledger.counts["resumes"], sent, delivered,
                    len(lost), self.memory[-1][1]), flush=True)
                said_at = now + 60
            time.sleep(0.05)
        self.memory.append((time.monotonic() - started, self.steady.rss_kib()))

    def calm_down(self):
        """Good weather, no events; all that can arrive is given time to. Seconds until it had."""
        self.order(weather={})
        began = time.monotonic()
        while self.later:
            self.look_after()
            time.sleep(0.05)
        self.life.command("calm")
        self.life.command("thaw")
        self.life.command("rate 0")
        until = began + SETTLE_SECONDS
        while time.monotonic() < until:
            self.look_after()
            with self.ledger.lock:
                current = [self.steady.current.get(0), self.steady.current.get(1), self.traveller.current.get(2)]
            fresh = all(session and session.life is self.life for session in current)
            if fresh and not self.ledger.close()[2]:
                time.sleep(3)
                if not self.ledger.close()[2]:
                    return time.monotonic() - began - 3
            time.sleep(0.2)
        return None

    def end(self):
        for child in (self.life, self.steady, self.traveller):
            if child and child.process.poll() is None:
                child.send_signal(signal.SIGCONT)
        codes = []
        for client in (self.steady, self.traveller):
            if client:
                if client.process.poll() is None:
                    client.send_signal(signal.SIGTERM)
                codes.append(client.wait(30))
                client.end()
        for child in (self.life, self.relay):
            if child:
                try:
                    child.process.stdin.close()
                except OSError:
                    pass
                child.end()
        return codes


# ---- the table -----------------------------------------------------------------------------------

def row(name, value, note=""):
    print(("  %-44s%14s   %s" % (name, value, note)).rstrip())


def table(soak, seconds, settled, codes):
    ledger = soak.ledger
    sent, delivered, lost, gone, invented = ledger.close()
    warm = min(60, SECONDS / 4)
    memory = [kib for at, kib in soak.memory if at >= warm and kib]
    fifth = max(len(memory) // 5, 1)
    first, last = statistics.median(memory[:fifth]), statistics.median(memory[-fifth:])
    counts = ledger.counts
    print("\nsoak: seed %d, %s" % (SEED, "a TCP proxy, as /dev/net/tun is not used: no packet is lost, doubled or reordered"
                                   if PROXY else "an IP relay between two TUN devices"))
    row("hours", "%.3f" % (seconds / 3600))
    row("faults", sum(ledger.faults.values()))
    for name, count in sorted(ledger.faults.items()):
        row("  " + name, count)
    for name, count in sorted(soak.line_counts.items()):
        if name != "ev":
            row(name, count)
    row("connections opened", counts["connects"], "by both clients")
    row("connections lost", counts["connections lost"])
    for name, count in sorted(counts.items()):
        if name.startswith("closed: "):
            row("  " + name[8:], count)
    row("resumes", counts["resumes"], "RESUMED; %d were asked for" % counts["resumes asked for"])
    row("identifies", counts["identifies"], "%d lives of the simulator" % soak.lives)
    row("sessions lost", counts["session_lost"])
    row("polled late", counts["polled_late"])
    row("events sent", sent, "by the simulator's log, %d sessions" % len(ledger.sessions))
    row("delivered", delivered)
    row("gone with a session that could not be resumed", sum(gone.values()))
    for name, count in sorted(gone.items()):
        row("  " + name, count)
    row("lost", len(lost), lost[:5] or "")
    row("doubled", len(ledger.doubled), ledger.doubled[:5] or "")
    row("not in order", len(ledger.disordered), ledger.disordered[:5] or "")
    row("invented", len(invented), invented[:5] or "")
    row("again after a kill", counts["again after a kill"], "from the last saved session on")
    row("all there after the last fault", "no" if settled is None else "%.1f s" % settled)
    row("memory at the start", "%d KiB" % first, "RSS of the steady client, median of a fifth of the time")
    row("memory at the end", "%d KiB" % last)
    row("memory at most", "%d KiB" % max(memory))
    row("rules broken", sum(ledger.rules.values()), "; ".join("%s %d" % each for each in sorted(ledger.rules.items())))
    wrong = [sentence for is_so, sentence in (
        (lost, "%d events were lost" % len(lost)), (ledger.doubled, "%d events came twice" % len(ledger.doubled)),
        (ledger.disordered, "%d events came out of order" % len(ledger.disordered)),
        (invented, "%d events were never sent" % len(invented)), (delivered == 0, "nothing was delivered"),
        (settled is None, "not all was there %d s after the last fault" % SETTLE_SECONDS),
        (last > first + GROWTH_KIB, "memory grew by %d KiB" % (last - first)),
        (ledger.strange, "the simulator complains: %s" % ledger.strange[:3]),
        (any(codes), "exit codes of the clients: %s" % codes)) if is_so]
    for sentence in wrong:
        print("soak: FAILED: " + sentence)
    if not wrong:
        print("soak: nothing was lost, and memory did not grow")
    return 1 if wrong else 0


def main():
    expect(os.geteuid() == 0, "namespaces are made by root only")
    for program in ("ip", "openssl"):
        expect(shutil.which(program), program, "is missing; sh tests/setup.sh soak installs it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(folder)
        try:
            soak.start()
            started = time.monotonic()
            print("soak: %d s, seed %d" % (SECONDS, SEED), flush=True)
            soak.storm(started)
            seconds = time.monotonic() - started
            settled = soak.calm_down()
            codes = soak.end()
            return table(soak, seconds, settled, codes)
        finally:
            soak.end()
            remove_namespaces()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as fault:
        sys.exit("soak: FAILED: %s (seed %d)" % (fault, SEED))
    except KeyboardInterrupt:
        sys.exit(130)
