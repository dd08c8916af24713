#!/usr/bin/python3
"""What `make run` shows without a token, in two acts: a bot's connection that is lost twice, then four shards of which
two are lost, and no event with them.

Starts the gateway simulator on a free loopback port and examples/tail against it, over real TCP and TLS; tells what
happens as it happens; then compares what the simulator sent with what tail printed. Exit code 0
only if nothing was lost or doubled. $BUILD says where the programs are (build/)."""
import os
import signal
import statistics
import sys
import threading
import time

from support import BUILD, TOKEN, Failed, Gwsim, Tail, Tally, settle

EVENTS_PER_SECOND = 12      # of all shards together
HELD_BACK_MS = 1200         # the simulator's answer to the first Resume of an act: time in which events are missed
SHARDS = 4
ALL_INTENTS = "53608447"    # so that messages have their content

COLOURS = {"title": "1", "quiet": "2", "bad": "31;1", "good": "32", "missed": "33", "link": "36"}
started = time.monotonic()
guild_names = {}            # by id
printing = threading.Lock()


def say(text="", colour=None):
    if colour and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        text = "\x1b[%sm%s\x1b[0m" % (COLOURS[colour], text)
    try:
        with printing:
            print(text, flush=True)
    except BrokenPipeError:         # whoever read this has left: end the children, and in order
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.kill(os.getpid(), signal.SIGTERM)


def title(text):
    say("\n== %s" % text, "title")


# ---- tail's lines, told --------------------------------------------------------------------------

def plain(text, most=56):
    """On one line, without what a terminal would obey."""
    text = "".join(char if char.isprintable() else " " for char in str(text))
    return text if len(text) <= most else text[:most - 3] + "..."


def about(name, d):
    """A few telling fields of an event."""
    if name == "GUILD_CREATE":
        guild_names[d["id"]] = d["name"]
        return plain("%s  %d members" % (d["name"], d["member_count"]))
    who = (d.get("author") or d.get("user") or {}).get("username")
    what = d.get("content") or d.get("status") or d.get("name") or (d.get("emoji") or {}).get("name")
    where = guild_names.get(d.get("guild_id"))
    parts = (who, plain(what, 40) if what else None, plain("in " + where) if where else None)
    return "  ".join(part for part in parts if part)


def advice(d):
    """What /gateway/bot said."""
    limit = d["session_start_limit"]
    return "is advised: %d shards, %d at a time; %d Identifies are left today" % (
        d["shards"], limit["max_concurrency"], limit["remaining"])


def tell(line, of_shards=False):
    """One line of tail --json --data as a line for people."""
    clock = "%7.3f s  " % (time.monotonic() - started)
    if of_shards:
        clock += "shard %d  " % line["shard"] if line["shard"] >= 0 else " " * 9
    ev = line["ev"]
    if ev == "dispatch":
        landmark = line["t"] in ("READY", "RESUMED")
        missed = line.get("replayed") and not landmark
        text = "%5d  %-22s%s" % (line["s"], line["t"], about(line["t"], line["d"]))
        say(clock + text.rstrip() + ("  (was missed)" if missed else ""),
            "good" if landmark else "missed" if missed else None)
    elif ev == "close":
        ours = line["reason"] == "by_caller"
        say(clock + "       %s: %s" % ("closed" if ours else "connection lost", plain(line["msg"], 90)),
            "link" if ours else "bad")
    elif ev == "reconnect":
        what = "resumes the session" if line["resume"] else "starts a new session"
        say(clock + "       %s in %d ms" % (what, line["in_ms"]), "link")
    elif ev == "connecting":
        say(clock + "       connects to %s" % line["url"], "link")
    elif ev == "fatal":
        say(clock + "       " + plain(line["msg"], 200), "bad")
    elif ev == "gateway_info":
        say(clock + "       " + advice(line["d"]), "link")
    elif ev not in ("ready", "resumed", "woken", "stop"):
        words = {"open": "TLS and WebSocket are up", "identifying": "identifies"}
        say(clock + "       %s" % words.get(ev, ev), "link")


# ---- the story -----------------------------------------------------------------------------------

def came(what, line, tail):
    if line:
        return
    if tail.process.poll() is not None:
        tail.wait()                 # all that it said is read
    raise Failed("%s did not come. tail says: %s" % (what, tail.said() or "nothing"))


def goodbye(sim, tail, what):
    """Ctrl-C, and the numbers of the act."""
    settle(sim, tail)
    peak_kib = tail.peak_kib()
    title(what)
    tail.send_signal(signal.SIGINT)
    code = tail.wait()
    if code != 0:
        raise Failed("tail ended with exit code %s. It says: %s" % (code, tail.said() or "nothing"))
    return Numbers(sim, tail, peak_kib)


def act_one():
    """One connection, cut and then asked to leave."""
    with Gwsim("--rate", str(EVENTS_PER_SECOND), "--token", TOKEN, "--for", "90") as sim:
        title("act one: tail connects to a gateway simulator at %s" % sim.url)
        with Tail(sim.url, "--data", "--for", "80", on_line=tell, GW_INTENTS=ALL_INTENTS) as tail:
            came("READY", tail.wait_for("ready"), tail)
            time.sleep(2.5)

            title("the simulator cuts TCP in the middle of a frame, and is slow to take tail back")
            sim.command("next 1 late_ready %d" % HELD_BACK_MS)
            sim.command("cut_inside_frame")
            came("the first RESUMED", tail.wait_for("resumed"), tail)
            time.sleep(2)

            title("the simulator asks for a new connection (op 7)")
            sim.command("op7")
            came("the second RESUMED", tail.wait_for(lambda line: len(tail.of("resumed")) == 2), tail)
            time.sleep(2)
            return goodbye(sim, tail, "the user presses Ctrl-C: tail says goodbye with code 1000")


def act_two():
    """Four shards: one is cut while the others go on, another is asked to leave."""
    with Gwsim("--rate", str(EVENTS_PER_SECOND // SHARDS), "--token", TOKEN, "--guilds", str(2 * SHARDS), "--shards",
               str(SHARDS), "--max-concurrency", str(SHARDS), "--for", "90") as sim:
        title("act two: tail --shards %d; the simulator lets %d identify at once (max_concurrency)" % (SHARDS, SHARDS))
        with Tail(None, "--shards", str(SHARDS), "--data", "--for", "80", on_line=lambda line: tell(line, True),
                  GW_INTENTS=ALL_INTENTS, GW_API_URL=sim.api_url) as tail:
            came("READY of all shards", tail.wait_for(lambda line: len(tail.of("ready")) == SHARDS), tail)
            time.sleep(2)

            title("the simulator cuts shard 2 in the middle of a frame, and is slow to take it back; the others go on")
            sim.command("next 1 late_ready %d" % HELD_BACK_MS)
            sim.command("shard 2 cut_inside_frame")
            came("RESUMED of shard 2", tail.wait_for("resumed"), tail)
            time.sleep(1.5)

            title("the simulator asks shard 0 for a new connection (op 7)")
            sim.command("shard 0 op7")
            came("RESUMED of shard 0", tail.wait_for(lambda line: len(tail.of("resumed")) == 2), tail)
            time.sleep(1.5)
            return goodbye(sim, tail, "the user presses Ctrl-C: each shard says goodbye")


# ---- the numbers ---------------------------------------------------------------------------------

class Numbers:
    """Of an act that is over."""

    def __init__(self, sim, tail, peak_kib):
        dispatches = tail.of("dispatch")
        self.tally, self.memory_mib = Tally(sim, tail), peak_kib / 1024 if peak_kib else None
        self.ready = sorted(line["shard"] for line in tail.of("ready"))
        self.resumed = [line["shard"] for line in tail.of("resumed")]
        self.guilds = sum(line["t"] == "GUILD_CREATE" for line in dispatches)
        self.missed = sum(bool(line.get("replayed")) and line["t"] != "RESUMED" for line in dispatches)
        self.live_ms, self.gaps_s = latencies_ms(dispatches), gaps_s(tail)
        self.others = others_meanwhile(tail)
        self.bad_lines = len(tail.bad_lines)
        self.strange = ["%s (%s)" % (line["rule"], line["why"]) for line in sim.violations()]

    def faults(self, act, shards, resumed, guilds):
        """What is not as it should be, as sentences."""
        return ["act %s: %s" % (act, sentence) for wrong, sentence in (
            (not self.tally.perfect(), "what was sent and what was delivered differ: %s" % self.tally),
            (self.ready != list(range(shards)), "READY was to be seen of %d shards, not of %s" % (shards, self.ready)),
            (self.resumed != resumed, "RESUMED was to be seen of shards %s, not of %s" % (resumed, self.resumed)),
            (self.guilds != guilds, "%d guilds were to be seen, not %d" % (guilds, self.guilds)),
            (not self.missed, "no event was missed: the cut proves nothing"),
            (self.bad_lines, "tail printed what is no JSON"),
            (self.strange, "the simulator complains: %s" % "; ".join(self.strange))) if wrong]


def latencies_ms(dispatches):
    """From the simulator's stamp in each live event to tail's; the stamps are of the monotonic clock."""
    offset = time.time() - time.monotonic()
    return [(line["ts"] - offset - line["d"]["sim"]["sent_us"] / 1e6) * 1e3
            for line in dispatches if not line.get("replayed") and "sim" in line["d"]]


def gaps_s(tail):
    """How long each loss of a connection took, until its shard's RESUMED."""
    gaps, lost = [], {}
    for line in list(tail.lines):
        if line["ev"] == "close":
            lost[line["shard"]] = line["ts"]
        elif line["ev"] == "resumed":
            gaps.append(line["ts"] - lost[line["shard"]])
    return gaps


def others_meanwhile(tail):
    """Events of the other shards while the first loss lasted."""
    resumed = tail.of("resumed")[0]
    lost = next(line for line in tail.of("close") if line["shard"] == resumed["shard"])
    return sum(line["shard"] != resumed["shard"] and lost["ts"] < line["ts"] < resumed["ts"]
               for line in tail.of("dispatch"))


def summary(one, four):
    def row(name, values, note=""):
        say(("  %-20s%16s%16s   %s" % ((name,) + tuple(values) + (note,))).rstrip())

    def milliseconds(function):
        return ["%.2f ms" % function(act.live_ms) if act.live_ms else "?" for act in (one, four)]

    both = (one, four)
    title("summary" + " " * 15 + "one connection     four shards")
    row("events sent", [len(act.tally.sent) for act in both], "by the simulator's own log")
    row("delivered", [act.tally.delivered for act in both])
    row("missed at first", [act.missed for act in both], "they came with the Resume")
    row("lost", [len(act.tally.lost) for act in both])
    row("doubled", [len(act.tally.doubled) for act in both])
    row("reconnects", [len(act.gaps_s) for act in both])
    row("the cut took", ["%.3f s" % act.gaps_s[0] for act in both],
        "the simulator held its answer back for %.1f s of it" % (HELD_BACK_MS / 1000))
    row("the op 7 took", ["%.3f s" % act.gaps_s[1] for act in both])
    row("latency, median", milliseconds(statistics.median), "from the simulator's stamp to tail's line")
    row("latency, at most", milliseconds(max))
    row("memory, at most", ["%.1f MiB" % act.memory_mib if act.memory_mib else "?" for act in both], "all of tail")


def main():
    for program in ("gwsim", "tail"):
        if not os.access(os.path.join(BUILD, program), os.X_OK):
            raise Failed("%s is not there; `make run` builds it" % os.path.join(BUILD, program))
    one, four = act_one(), act_two()        # each child ends by itself, should this script be killed
    faults = one.faults("one", 1, [0, 0], 3) + four.faults("two", SHARDS, [2, 0], 2 * SHARDS)
    if not four.others:
        faults.append("act two: the other shards stood still while one was cut")
    summary(one, four)
    say()
    for fault in faults:
        say("FAILED: " + fault, "bad")
    if not faults:
        say("Nothing was lost, nothing was doubled; while shard 2 was away the others brought %d events." % four.others,
            "good")
        say("With DISCORD_TOKEN set, `make run` shows your own bot.", "good")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")                    # a terminal without UTF-8 is no reason to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the children are ended
    try:
        sys.exit(main())
    except Failed as fault:
        say("FAILED: %s" % fault, "bad")
        sys.exit(1)
    except KeyboardInterrupt:
        say("\nended by you")
        sys.exit(130)
