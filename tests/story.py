#!/usr/bin/python3
"""What `make run` shows without a token: a bot's connection that is lost twice, and no event with it.

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

EVENTS_PER_SECOND = 12
HELD_BACK_MS = 1200         # the simulator's answer to the first Resume: time in which events are missed
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


def tell(line):
    """One line of tail --json --data as a line for people."""
    clock = "%7.3f s  " % (time.monotonic() - started)
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


def act(sim, tail):
    """All that happens, and the numbers of it."""
    came("READY", tail.wait_for("ready"), tail)
    time.sleep(2.5)

    title("the simulator cuts TCP in the middle of a frame, and is slow to take tail back")
    sim.command("next 1 late_ready %d" % HELD_BACK_MS)
    sim.command("cut_inside_frame")
    came("the first RESUMED", tail.wait_for(lambda line: len(tail.of("resumed")) == 1), tail)
    time.sleep(2)

    title("the simulator asks for a new connection (op 7)")
    sim.command("op7")
    came("the second RESUMED", tail.wait_for(lambda line: len(tail.of("resumed")) == 2), tail)
    time.sleep(2)

    settle(sim, tail)
    peak_kib = tail.peak_kib()
    title("the user presses Ctrl-C: tail says goodbye with code 1000")
    tail.send_signal(signal.SIGINT)
    code = tail.wait()
    if code != 0:
        raise Failed("tail ended with exit code %s. It says: %s" % (code, tail.said() or "nothing"))
    return Tally(sim, tail), peak_kib


def latencies_ms(tail):
    """From the simulator's stamp in each live event to tail's; the stamps are of the monotonic clock."""
    offset = time.time() - time.monotonic()
    return [(line["ts"] - offset - line["d"]["sim"]["sent_us"] / 1e6) * 1e3
            for line in tail.of("dispatch") if not line.get("replayed") and "sim" in line["d"]]


def gaps_s(tail):
    """How long each loss of the connection took, until RESUMED."""
    lost = [line["ts"] for line in tail.of("close") if line["session"] == "kept"]
    return [resumed["ts"] - close for close, resumed in zip(lost, tail.of("resumed"))]


def summary(sim, tail, tally, peak_kib):
    """Prints the numbers; what is not as it should be comes back as sentences."""
    live, gaps = latencies_ms(tail), gaps_s(tail)
    missed = [line for line in tail.of("dispatch") if line.get("replayed") and line["t"] != "RESUMED"]
    guilds = [line for line in tail.of("dispatch") if line["t"] == "GUILD_CREATE"]
    title("summary")
    for name, value, note in (
            ("events sent", len(tally.sent), "by the simulator's own log"),
            ("delivered", tally.delivered, "%d of them were missed first, and came with the Resume" % len(missed)),
            ("lost", len(tally.lost), ""), ("doubled", len(tally.doubled), ""),
            ("reconnects", len(gaps), ", ".join("%.3f s" % gap for gap in gaps) +
             " (in the first the simulator held its answer back for %.1f s)" % (HELD_BACK_MS / 1000))):
        say(("  %-12s%6d   %s" % (name, value, note)).rstrip())
    if live:
        say("  %-12s%6.2f   ms median, %.2f ms at most, from the simulator's stamp to tail's line" % (
            "latency", statistics.median(live), max(live)))
    say("  %-12s%6s   MiB at most, all of tail" % ("memory", "%.1f" % (peak_kib / 1024) if peak_kib else "?"))
    strange = ["%s (%s)" % (line["rule"], line["why"]) for line in sim.violations()]
    return [sentence for wrong, sentence in (
        (not tally.perfect(), "what was sent and what was delivered differ: %s" % tally),
        (len(tail.of("ready")) != 1 or len(gaps) != 2, "one READY and two RESUMED were to be seen"),
        (len(guilds) != 3, "three guilds were to be seen, not %d" % len(guilds)),
        (not missed, "no event was missed: the cut proves nothing"),
        (tail.bad_lines, "tail printed what is no JSON"),
        (strange, "the simulator complains: %s" % "; ".join(strange))) if wrong]


def main():
    for program in ("gwsim", "tail"):
        if not os.access(os.path.join(BUILD, program), os.X_OK):
            raise Failed("%s is not there; `make run` builds it" % os.path.join(BUILD, program))
    # Both end by themselves, should this script be killed.
    with Gwsim("--rate", str(EVENTS_PER_SECOND), "--token", TOKEN, "--for", "90") as sim:
        title("tail connects to a gateway simulator at %s" % sim.url)
        with Tail(sim.url, "--data", "--for", "80", on_line=tell, GW_INTENTS=ALL_INTENTS) as tail:
            faults = summary(sim, tail, *act(sim, tail))
    say()
    for fault in faults:
        say("FAILED: " + fault, "bad")
    if not faults:
        say("Nothing was lost, nothing was doubled. With DISCORD_TOKEN set, `make run` shows your own bot.", "good")
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
