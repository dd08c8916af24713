#!/usr/bin/python3
"""tail's options, its sentences and its exit codes, against the simulator.

  python3 tests/tail_test.py [-v] [part of a test's name]"""
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from support import BUILD, CERTS, TOKEN, Gwsim, Tail, expect, main, settle, test, write_file

PRESENCE = '{"op":3,"d":{"since":null,"activities":[{"name":"%s","type":0}],"status":"online","afk":false}}'


def exits(tail, code, *words):
    got = tail.wait()
    expect(got == code, "exit code", got, "instead of", code, tail.said())
    for word in words:
        expect(word in tail.said(), '"%s" is not in: %s' % (word, tail.said()))
    expect(TOKEN not in tail.said() + json.dumps(tail.lines), "the token was shown")


def ends_by(tail, number=signal.SIGTERM):
    tail.send_signal(number)
    exits(tail, 0)
    expect(tail.lines[-1]["ev"] == "stop", tail.lines[-1])


# ---- used wrongly: a sentence, exit code 2, and no connection ------------------------------------

@test
def help_names_every_option():
    with Tail(None, "--help", token=None) as tail:
        expect(tail.wait() == 0, "exit code", tail.process.returncode)
        text = b"".join(tail.bad_lines).decode()
        for word in ("--json", "--data", "--for", "--shards", "--send", "--max-payload", "--session", "--trace",
                     "--help", "DISCORD_TOKEN", "GW_URL", "GW_API_URL", "GW_CA_FILE", "GW_INTENTS", "GW_LOG",
                     "exit code"):
            expect(word in text, word, "is not in --help")


@test
def an_option_that_is_none_is_named():
    for option in ("--jsno", "-j", "json", "--for=5", ""):
        with Tail("wss://localhost:1", option) as tail:
            exits(tail, 2, "option " + option, "--help")


@test
def an_option_without_its_value_is_named():
    for option in ("--for", "--shards", "--send", "--max-payload", "--session", "--trace"):
        with Tail("wss://localhost:1", option) as tail:
            exits(tail, 2, option)


@test
def values_that_are_no_numbers_are_refused():
    for option, values in (("--for", ("soon", "0", "-1", "1s", "nan", "inf")),
                           ("--max-payload", ("big", "0", "-1", "0.5", "4294967296", "1k")),
                           ("--shards", ("0", "-1", "4x", "", "16385", "99999999999", "Auto", "1-2", "1-2/", "-2/4",
                                         "1-/4", "2-1/4", "0-4/4", "0-3/0", "0-1/2/3", " 4"))):
        for value in values:
            with Tail("wss://localhost:1", option, value) as tail:
                exits(tail, 2, option, '"%s"' % value)
    for value in ("all", "-1", "12x", "99999999999999999999"):
        with Tail("wss://localhost:1", GW_INTENTS=value) as tail:
            exits(tail, 2, "GW_INTENTS", '"%s"' % value)
    with Tail("wss://localhost:1", GW_LOG="verbose") as tail:
        exits(tail, 2, "GW_LOG", '"verbose"')


@test
def without_a_token_it_says_how_to_try_without_one():
    for token in (None, ""):
        with Tail("wss://localhost:1", token=token) as tail:
            exits(tail, 2, "DISCORD_TOKEN", "make run")


@test
def a_bad_line_of_send_is_refused_before_connecting():
    bad = (("hello", "JSON"), ("[1,2]", "JSON"), ('{"d":{}}', "op"), ('{"op":"3","d":{}}', "op"),
           ('{"op":-1,"d":{}}', "op"), ('{"op":3}', '"d"'))
    with tempfile.TemporaryDirectory() as folder:
        for line, word in bad:
            path = write_file(folder, "payloads", PRESENCE % "good" + "\n\n" + line + "\n")
            with Tail("wss://localhost:1", "--send", path) as tail:
                exits(tail, 2, "line 3", path, word)
                expect(not tail.lines, "it connected")
        with Tail("wss://localhost:1", "--send", os.path.join(folder, "absent")) as tail:
            exits(tail, 2, "absent")


@test
def a_file_that_cannot_be_written_is_said_at_the_start():
    for option in ("--session", "--trace"):
        with Tail("wss://localhost:1", option, "/nonexistent/folder/file") as tail:
            exits(tail, 2, option, "/nonexistent/folder/file")


@test
def shards_auto_asks_discord_so_it_refuses_a_url():
    with Tail("wss://localhost:1", "--shards", "auto") as tail:
        exits(tail, 2, "--shards auto", "GW_URL")


# ---- cannot go on: a sentence, exit code 10 ------------------------------------------------------

@test
def a_wrong_token_ends_it_at_once():
    with Gwsim("--token", "the-right-one") as sim, Tail(sim.url) as tail:
        exits(tail, 10, "token")
        expect([line["ev"] for line in tail.lines[-3:]] == ["close", "fatal", "stop"], tail.lines)
        expect(tail.of("close")[0]["code"] == 4004, tail.of("close"))
        expect("token" in tail.of("fatal")[0]["msg"], tail.of("fatal"))
        expect(len(sim.of("identify")) == 1, "it tried again")


@test
def a_privileged_intent_that_is_off_is_explained():
    with Gwsim("--denied-intents", "32768") as sim, Tail(sim.url, GW_INTENTS="33281") as tail:
        exits(tail, 10, "privileged")
        expect(tail.of("close")[0]["code"] == 4014, tail.of("close"))


# ---- the lines -----------------------------------------------------------------------------------

@test
def each_json_line_has_ev_ts_and_shard_and_the_order_is_that_of_the_connection():
    with Gwsim("--rate", "50") as sim, Tail(sim.url, "--data") as tail:
        before = time.time()
        expect(tail.wait_for(lambda line: line.get("t") == "MESSAGE_CREATE"), tail.lines, tail.said())
        ends_by(tail)
        for line in tail.lines:
            expect(isinstance(line["ev"], str) and isinstance(line["shard"], int), line)
            expect(before - 60 < line["ts"] < time.time() + 1, line)
        names = [line["ev"] for line in tail.lines if line["ev"] != "woken"]
        expect(names[:6] == ["connecting", "open", "identifying", "dispatch", "ready", "dispatch"], names[:8])
        expect(names[-2:] == ["close", "stop"], names[-4:])
        expect(tail.lines[0]["url"].startswith(sim.url) and "v=10" in tail.lines[0]["url"], tail.lines[0])
        ready = tail.of("dispatch")[0]
        expect(ready["t"] == "READY" and ready["s"] == 1 and ready["d"]["user"]["username"] == "simbot", ready)
        expect(tail.of("ready")[0]["session_id"] == ready["d"]["session_id"], tail.of("ready"))
        expect(all("d" in line for line in tail.of("dispatch")), "--data gives d")
        close = tail.of("close")[0]
        expect(close["session"] == "lost" and close["reason"] == "by_caller", close)


@test
def without_data_the_payload_is_left_out():
    with Gwsim() as sim, Tail(sim.url, "--for", "1") as tail:
        exits(tail, 0)
        expect(tail.of("dispatch") and not any("d" in line for line in tail.of("dispatch")), tail.of("dispatch"))


@test
def an_end_of_the_connection_is_a_close_line_and_a_reconnect_line():
    with Gwsim() as sim, Tail(sim.url) as tail:
        for count, command in enumerate(("close 4000 bye", "op7", "cut", "op9 true"), 1):
            expect(tail.wait_for("ready"), tail.lines)
            sim.command(command)
            resumed = tail.wait_for(lambda line: len(tail.of("resumed")) == count)
            expect(resumed, "no RESUMED after", command, tail.lines[-4:])
        closes = [(line["code"], line["reason"], line["session"]) for line in tail.of("close")]
        expect([close[1:] for close in closes] == [("close_code", "kept"), ("asked", "kept"), ("lost", "kept"),
                                                   ("invalid_session", "kept")], closes)
        expect(closes[0][0] == 4000 and closes[2][0] is None, closes)
        names = [line["ev"] for line in tail.lines]
        expect(all(names[at + 1] == "reconnect" for at, name in enumerate(names) if name == "close"), names)
        reconnects = tail.of("reconnect")
        expect(all(line["resume"] is True and line["in_ms"] == 0 for line in reconnects), reconnects)
        ends_by(tail)


@test
def a_session_that_is_lost_says_so():
    with Gwsim("--identify-window", "100") as sim, Tail(sim.url) as tail:
        expect(tail.wait_for("ready"), tail.lines)
        sim.command("close 4009")
        expect(tail.wait_for(lambda line: len(tail.of("ready")) == 2), tail.lines)
        expect(tail.of("session_lost") and tail.of("close")[0]["session"] == "lost", tail.lines)
        expect(tail.of("reconnect")[0]["resume"] is False, tail.of("reconnect"))


@test
def readable_lines_are_aligned_and_tell_who_and_what():
    message = '{"author":{"username":"kim"},"content":"bell \\u0007 clear \\u001b[2J \\u009b1m"}'
    with Gwsim("--do", "on ready +100 event MESSAGE_CREATE " + message) as sim:
        with Tail(sim.url, "--for", "1.5", json_lines=False) as tail:
            exits(tail, 0)
            raw = b"".join(tail.bad_lines)
            lines = raw.decode().splitlines()
            expect(all(re.match(r"\d\d:\d\d:\d\d\.\d{3} +(\d+|-)  \S", line) for line in lines), lines)
            columns = {re.match(r"\S+ +\S+  \S+ +", line).end() for line in lines if "_CREATE" in line}
            expect(len(columns) == 1, "columns are not aligned:", lines)
            text = "\n".join(lines)
            for word in ("READY", "user=simbot", 'name=Guild "0" / caf\u00e9', "members=1500", "author=kim",
                         "content=bell"):
                expect(word in text, word, "is not in:", text)
            for command in (b"\x1b", b"\x07", b"\xc2\x9b"):
                expect(command not in raw, "a stranger can command the terminal")


# ---- how it ends ---------------------------------------------------------------------------------

@test
def sigterm_and_ctrl_c_end_the_session_for_good():
    for number in (signal.SIGTERM, signal.SIGINT):
        with Gwsim() as sim, Tail(sim.url) as tail:
            expect(tail.wait_for("ready"), tail.lines)
            ends_by(tail, number)
            expect(sim.wait_for("session_end", 5), "the session was not ended with 1000")


@test
def for_ends_it_in_time_with_exit_code_0():
    started = time.monotonic()
    with Gwsim() as sim, Tail(sim.url, "--for", "1.2") as tail:
        exits(tail, 0)
        expect(1.1 < time.monotonic() - started < 6, "it took", time.monotonic() - started, "s")
        expect(sim.wait_for("session_end", 5), "the session was not ended with 1000")


@test
def it_ends_in_time_where_nobody_answers():
    for number in (signal.SIGTERM, None):
        with Tail("wss://localhost:1", *(["--for", "1"] if number is None else [])) as tail:
            expect(tail.wait_for("close"), tail.lines)
            if number:
                tail.send_signal(number)
            exits(tail, 0)


@test
def a_reader_that_leaves_ends_it_in_order():
    env = dict(os.environ, DISCORD_TOKEN=TOKEN, GW_CA_FILE=os.path.join(CERTS, "ca.pem"))
    with Gwsim("--rate", "100") as sim:
        env["GW_URL"] = sim.url
        process = subprocess.Popen([os.path.join(BUILD, "tail")], env=env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        while b"READY" not in process.stdout.readline():
            pass
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        expect(process.wait(20) == 0 and not said, "exit code", process.returncode, said)
        expect(sim.wait_for("session_end", 5), "the session was not ended with 1000")


# ---- --shards ------------------------------------------------------------------------------------

def is_ready(tail, shards):
    came = tail.wait_for(lambda line: sorted(line["shard"] for line in tail.of("ready")) == shards)
    expect(came, "READY was to come of", shards, "not of", tail.of("ready"), tail.said(), tail.lines[-3:])


@test
def shards_are_a_count_or_a_range_or_what_discord_advises():
    with Gwsim("--shards", "3", "--max-concurrency", "16", "--identify-window", "0", "--guilds", "8") as sim:
        for value, shards, total in (("1", [0], 1), ("4", [0, 1, 2, 3], 4), ("1-2/4", [1, 2], 4), ("3-3/4", [3], 4),
                                     ("auto", [0, 1, 2], 3)):
            before = len(sim.of("identify"))
            with Tail(None, "--shards", value, GW_API_URL=sim.api_url) as tail:
                is_ready(tail, shards)
                ends_by(tail)
                named = sorted(line["shard"] for line in sim.of("identify")[before:])
                expect(named == [[shard, total] for shard in shards], value, named)
                expect(len(tail.of("gateway_info")) == 1 and tail.of("gateway_info")[0]["shard"] == -1, tail.lines[:2])
        expect(not sim.violations(), sim.violations())


@test
def shards_of_a_given_url_identify_one_after_the_other_and_end_together():
    with Gwsim("--rate", "20") as sim, Tail(sim.url, "--shards", "2") as tail:
        is_ready(tail, [0, 1])
        expect(sim.wait_for(lambda line: len(sim.of("identify")) == 2, 5), "Identifies:", sim.of("identify"))
        first, second = [line["ts_ms"] for line in sim.of("identify")]
        expect(5000 <= second - first < 15000, "the second came after", second - first, "ms")
        tally = settle(sim, tail)
        ends_by(tail)
        expect(tally.perfect(), tally)
        expect(sim.wait_for(lambda line: len(sim.of("session_end")) == 2, 5), "the sessions were not ended with 1000")
        expect(sorted(line["shard"] for line in tail.of("close")) == [0, 1], tail.of("close"))
        expect(all((line["session"], line["reason"]) == ("lost", "by_caller") for line in tail.of("close")), tail.lines)
        expect(not sim.violations(), sim.violations())


@test
def one_shard_resumes_while_the_others_go_on():
    with Gwsim("--rate", "50", "--max-concurrency", "4") as sim:
        with Tail(None, "--shards", "4", GW_API_URL=sim.api_url) as tail:
            is_ready(tail, [0, 1, 2, 3])
            sim.command("next 1 late_ready 500")
            sim.command("shard 2 cut_inside_frame")
            expect(tail.wait_for("resumed"), tail.lines[-3:])
            tally = settle(sim, tail)
            ends_by(tail)
            expect(tally.perfect(), tally)
            expect(tail.of("close")[0]["shard"] == 2 and len(tail.of("close")) == 5, tail.of("close"))
            lost, back = tail.of("close")[0]["ts"], tail.of("resumed")[0]["ts"]
            others = {line["shard"] for line in tail.of("dispatch") if lost < line["ts"] < back and line["shard"] != 2}
            expect(others == {0, 1, 3}, "meanwhile only", others)


@test
def send_finds_the_shard_of_a_guild_and_tells_all_the_rest_to_each():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--max-concurrency", "2", "--guilds", "4") as sim:
        ids = [838860800000000000, 838860833214693377]          # of the simulator's guilds 0 and 1
        expect([(guild >> 22) % 2 for guild in ids] == [0, 1], "the simulator's guilds have other ids")
        path = write_file(folder, "payloads", "\n".join(
            ['{"op":8,"d":{"guild_id":"%d","user_ids":["1"],"limit":0}}' % guild for guild in ids] + [PRESENCE % "x"]))
        with Tail(None, "--shards", "2", "--send", path, GW_API_URL=sim.api_url) as tail:
            expect(sim.wait_for(lambda line: len(sim.of("send")) == 4), sim.of("send"), tail.said())
            ends_by(tail)
            expect(not sim.violations() and not tail.said(), sim.violations(), tail.said())
            expect(sorted(line["op"] for line in sim.of("send")) == [3, 3, 8, 8], sim.of("send"))
        with Tail(None, "--shards", "1-1/2", "--send", path, "--for", "8", GW_API_URL=sim.api_url) as tail:
            expect(sim.wait_for(lambda line: len(sim.of("send")) == 6), sim.of("send"), tail.said())
            ends_by(tail)
            expect("line 1" in tail.said() and "shard" in tail.said(), tail.said())


# ---- --trace -------------------------------------------------------------------------------------

@test
def a_trace_holds_each_payload_and_no_secret():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--rate", "50", "--max-concurrency", "2") as sim:
        path = os.path.join(folder, "trace")
        with Tail(None, "--shards", "2", "--trace", path, GW_API_URL=sim.api_url, GW_LOG="info") as tail:
            is_ready(tail, [0, 1])
            expect(tail.wait_for(lambda line: line.get("t") == "MESSAGE_CREATE"), tail.lines[-3:])
            sim.command("shard 1 cut_inside_frame")
            expect(tail.wait_for("resumed"), tail.lines[-3:])
            settle(sim, tail)
            ends_by(tail)
            text = open(path).read()
            lines = [json.loads(line) for line in text.splitlines()]
            expect(all(sorted(line) == ["dir", "ms", "payload", "shard"] for line in lines), lines[0])
            times = [line["ms"] for line in lines]
            expect(times == sorted(times) and isinstance(times[0], int) and 0 <= times[0] < 20000, times[:3])
            ops = [(line["shard"], line["dir"], line["payload"]["op"]) for line in lines]
            for op in ((0, "in", 10), (0, "out", 2), (1, "in", 10), (1, "out", 2), (1, "out", 6)):
                expect(op in ops, op, "is not there:", ops[:9])
            traced = [(line["shard"], line["payload"]["t"], line["payload"]["s"]) for line in lines
                      if line["payload"]["op"] == 0]
            printed = [(line["shard"], line["t"], line["s"]) for line in tail.of("dispatch")]
            expect(traced == printed, "the trace and the lines differ:", set(traced) ^ set(printed))
            messages = [line["payload"]["d"] for line in lines if line["payload"].get("t") == "MESSAGE_CREATE"]
            expect(messages and all("author" in d for d in messages), "payloads are not whole", messages[:1])
            for secret in [TOKEN] + [line["session_id"] for line in tail.of("ready")]:
                expect(secret not in text, secret, "is in the trace")
            expect("> {" not in tail.said() and "< {" not in tail.said(), "GW_LOG=info shows payloads", tail.said()[:300])


@test
def a_trace_that_cannot_be_written_to_its_end_is_said():
    if os.path.exists("/dev/full"):
        with Gwsim() as sim, Tail(sim.url, "--trace", "/dev/full", "--for", "0.5") as tail:
            exits(tail, 10, "--trace", "/dev/full")


# ---- --session -----------------------------------------------------------------------------------

@test
def a_session_file_loses_and_doubles_nothing_over_restarts():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--rate", "400") as sim:
        path, tails = os.path.join(folder, "session"), []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            tail = Tail(sim.url, "--session", path)
            tails.append(tail)
            seen = sum(1 for each in tails for _ in each.of("dispatch"))
            expect(tail.wait_for(lambda line: len(tail.of("dispatch")) > 100), seen, tail.lines[-3:], tail.said())
            ends_by(tail, number)
            expect(tail.of("close")[-1]["session"] == "kept", tail.of("close"))
            expect(os.stat(path).st_mode & 0o777 == 0o600, "others may read the file")
            expect(TOKEN not in open(path).read(), "the file has the token")
            time.sleep(0.2)                     # events go on without us
        last = Tail(sim.url, "--session", path)
        tails.append(last)
        expect(last.wait_for("resumed"), last.lines, last.said())
        tally = settle(sim, *tails)
        ends_by(last)
        expect(tally.perfect(), tally)
        expect(len(sim.of("identify")) == 1 and not sim.of("session_end"), "the session was not kept")
        expect(all(not tail.of("ready") for tail in tails[1:]), "a READY after the first start")
        expect(os.listdir(folder) == ["session"], os.listdir(folder))
        for tail in tails:
            tail.end()


@test
def a_session_file_loses_nothing_when_it_is_killed():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--rate", "200") as sim:
        path = os.path.join(folder, "session")
        with Tail(sim.url, "--session", path) as first:
            expect(first.wait_for(lambda line: len(first.of("dispatch")) > 500), first.lines[-3:], first.said())
            first.process.kill()
            first.wait()
            with Tail(sim.url, "--session", path) as second:
                expect(second.wait_for("resumed"), second.lines, second.said())
                tally = settle(sim, first, second)
                expect(not tally.lost and not tally.invented, tally)
                expect(len(tally.doubled) < 500, "what came in the last second may be told twice, not", tally)
                ends_by(second)


@test
def a_session_file_of_several_shards_loses_nothing_when_it_is_killed():
    with tempfile.TemporaryDirectory() as folder:
        with Gwsim("--rate", "100", "--shards", "4", "--max-concurrency", "4", "--guilds", "8") as sim:
            path, tails = os.path.join(folder, "session"), []
            for start, shards in enumerate(("4", "auto", "0-3/4")):
                tail = Tail(None, "--shards", shards, "--session", path, GW_API_URL=sim.api_url)
                tails.append(tail)
                if start:
                    came = tail.wait_for(lambda line: len(tail.of("resumed")) == 4)
                    expect(came, "only", tail.of("resumed"), tail.said(), tail.lines[-3:])
                if start < 2:           # far enough that each shard's READY was saved, and more since
                    expect(tail.wait_for(lambda line: len(tail.of("dispatch")) > 600), tail.lines[-3:], tail.said())
                    tail.process.kill()
                    tail.wait()
            tally = settle(sim, *tails)
            ends_by(tails[-1])
            expect(not tally.lost and not tally.invented, tally)
            expect(tally.each_in_order, "not in order:", tally)
            expect(len(tally.doubled) < 2 * 4 * 300, "what came in the last second may be told twice, not", tally)
            expect(len(sim.of("identify")) == 4, "an Identify was spent on a restart:", sim.of("identify"))
            expect(not sim.violations(), sim.violations())
            expect(not any(tail.of("ready") or tail.of("session_lost") for tail in tails[1:]), "a session was lost")
            expect(os.listdir(folder) == ["session"], os.listdir(folder))
            for tail in tails:
                tail.end()


@test
def a_session_file_of_another_shard_count_means_new_sessions():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--identify-window", "0", "--max-concurrency", "4") as sim:
        path = os.path.join(folder, "session")
        with Tail(None, "--shards", "2", "--session", path, GW_API_URL=sim.api_url) as tail:
            is_ready(tail, [0, 1])
            ends_by(tail)
            expect(all(line["session"] == "kept" for line in tail.of("close")), tail.of("close"))
        with Tail(None, "--shards", "3", "--session", path, GW_API_URL=sim.api_url) as tail:
            is_ready(tail, [0, 1, 2])
            lost = tail.of("session_lost")
            expect(len(lost) == 1 and "session text" in lost[0]["msg"] and "new session" in lost[0]["msg"], lost)
            ends_by(tail)
        with Tail(None, "--shards", "3", "--session", path, GW_API_URL=sim.api_url) as tail:
            expect(tail.wait_for(lambda line: len(tail.of("resumed")) == 3), tail.lines[-3:], tail.said())
            ends_by(tail)


@test
def a_session_file_with_rubbish_in_it_means_a_new_session():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--identify-window", "0") as sim:
        for text in ("", "rubbish\n", "x" * 5000, "\0\0\0"):
            path = write_file(folder, "session", text)
            with Tail(sim.url, "--session", path) as tail:
                expect(tail.wait_for("ready"), repr(text[:10]), tail.lines, tail.said())
                ends_by(tail)


@test
def a_session_that_has_expired_meanwhile_is_replaced():
    with tempfile.TemporaryDirectory() as folder, Gwsim("--identify-window", "100") as sim:
        path = os.path.join(folder, "session")
        with Tail(sim.url, "--session", path) as tail:
            expect(tail.wait_for("ready"), tail.lines)
            ends_by(tail)
        sim.command("expire_sessions")
        with Tail(sim.url, "--session", path) as tail:
            expect(tail.wait_for("ready"), tail.lines, tail.said())
            expect(tail.of("session_lost"), tail.lines)
            ends_by(tail)


# ---- --send, --max-payload, GW_LOG ---------------------------------------------------------------

@test
def send_hands_over_more_than_its_queue_holds_in_order():
    with tempfile.TemporaryDirectory() as folder, Gwsim() as sim:
        count = 100
        path = write_file(folder, "payloads", "\n".join(
            '{"op":8,"d":{"guild_id":"1","user_ids":["%d"],"limit":0}}' % number for number in range(count)) + "\r\n\n")
        with Tail(sim.url, "--send", path) as tail:
            all_came = sim.wait_for(lambda line: len(sim.of("send")) == count)
            expect(all_came, len(sim.of("send")), "arrived;", tail.said())
            got = [line["d"]["user_ids"] for line in sim.of("send")]
            expect(got == [[str(number)] for number in range(count)], got)
            sim.command("cut")
            expect(tail.wait_for("resumed"), tail.lines)
            time.sleep(0.3)
            expect(len(sim.of("send")) == count, "they were sent again after RESUMED")
            ends_by(tail)
            expect(not tail.said(), tail.said())


@test
def send_names_the_line_that_the_library_refuses_and_goes_on():
    with tempfile.TemporaryDirectory() as folder, Gwsim() as sim:
        payloads = (PRESENCE % "first", PRESENCE % ("x" * 5000), PRESENCE % "third")
        path = write_file(folder, "payloads", "\n".join(payloads))
        with Tail(sim.url, "--send", path) as tail:
            expect(sim.wait_for(lambda line: line["ev"] == "send" and "third" in json.dumps(line)), tail.said())
            expect(len(sim.of("send")) == 2 and not sim.violations(), sim.of("send"), sim.violations())
            ends_by(tail)
            expect("line 2" in tail.said() and "4,096" in tail.said(), tail.said())


@test
def a_payload_above_max_payload_is_skipped():
    with Gwsim("--do", "on ready +50 big 3000000; on ready +100 unknown_event") as sim:
        with Tail(sim.url, "--max-payload", "100000") as tail:
            expect(tail.wait_for(lambda line: line.get("t") == "SIM_UNKNOWN_EVENT"), tail.lines[-3:], tail.said())
            skipped = tail.of("skipped")
            expect(len(skipped) == 1 and skipped[0]["bytes"] > 2900000 and skipped[0]["s"] == 5, skipped)
            expect(skipped[0]["t"] == "GUILD_CREATE", skipped)
            expect(not tail.of("close"), tail.of("close"))
            ends_by(tail)


@test
def the_log_never_shows_the_token():
    with Gwsim("--rate", "20") as sim, Tail(sim.url, GW_LOG="trace") as tail:
        expect(tail.wait_for(lambda line: line.get("t") == "MESSAGE_CREATE"), tail.lines)
        sim.command("cut")
        expect(tail.wait_for("resumed"), tail.lines)
        ends_by(tail)
        expect("READY" in tail.said() and "RESUMED" in tail.said(), tail.said()[:500])
        expect(TOKEN not in tail.said(), "the token is in the log")


if __name__ == "__main__":
    raise SystemExit(main("tail_test"))
