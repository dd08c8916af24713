#!/usr/bin/python3
"""TLS and the way up to it: tls_probe against OpenSSL (openssl s_server, and Python's ssl), and against peers that break.

Each cause has its own class, and a sentence that says what to check."""
import datetime
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from probes import (CA, Peer, Run, Server, TEXT, answer_101, close_frame, drain, frame, one_byte_each, read_head,
                    relay, server_tls)
from support import CERTS, PATIENCE, Failed, expect, main, test

folder = tempfile.TemporaryDirectory()


class OpenSsl:
    """openssl s_server with a certificate of tests/certs and its chain. -www answers an upgrade with a page: class "http"
    then says that TLS itself has worked."""

    def __init__(self, certificate="server", key="server", *options, www=True):
        path = os.path.join(CERTS, certificate + ".pem")
        with open(path) as file:
            chain = re.findall("-----BEGIN.*?-----END CERTIFICATE-----\n", file.read(), re.S)
        argv = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", path, "-key", os.path.join(CERTS, key + ".key"),
                "-naccept", "1"] + list(options)
        if len(chain) > 1:
            rest = os.path.join(folder.name, certificate + ".chain")
            with open(rest, "w") as file:
                file.write("".join(chain[1:]))
            argv += ["-cert_chain", rest]
        if www:
            argv += ["-www"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = b""
        for line in self.process.stdout:
            said += line
            if line.startswith(b"ACCEPT"):
                self.port = int(line.strip().rsplit(b":", 1)[1])
                return
        raise Failed("openssl s_server did not start: %r" % said)

    def at(self, host="localhost"):
        return "wss://%s:%d/" % (host, self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def probe(url, **more):
    return Run("tls_probe", url, **more)


def against(certificate, key="server", *options, host="localhost", **more):
    with OpenSsl(certificate, key, *options) as server:
        return probe(server.at(host), **more)


TLS_WORKED = "status 200"


# ---- what must work -------------------------------------------------------------------------------------------------
@test
def tls_reaches_openssl_with_each_suite_that_we_offer():
    for suite, key in (("ECDHE-ECDSA-CHACHA20-POLY1305", "server"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "server"),
                       ("ECDHE-ECDSA-AES256-GCM-SHA384", "server"), ("ECDHE-RSA-CHACHA20-POLY1305", "server-rsa"),
                       ("ECDHE-RSA-AES128-GCM-SHA256", "server-rsa"), ("ECDHE-RSA-AES256-GCM-SHA384", "server-rsa")):
        against(key, key, "-tls1_2", "-cipher", suite).is_class("http", TLS_WORKED)


@test
def tls_reaches_openssl_with_each_curve_that_we_offer():
    for curve in ("X25519", "P-256", "P-384", "P-521"):
        against("server", "server", "-named_curve", curve).is_class("http", TLS_WORKED)


@test
def tls_meets_a_server_of_every_version_at_1_2():
    against("server").is_class("http", TLS_WORKED)


@test
def tls_accepts_the_certificates_that_are_good():
    against("any-usage").is_class("http", TLS_WORKED)
    against("server", host="127.0.0.1").is_class("http", TLS_WORKED)
    against("self-signed", ca=os.path.join(CERTS, "self-signed.pem")).is_class("http", TLS_WORKED)


def hello_over_tls(client):
    peer = Peer(server_tls().wrap_socket(client, server_side=True))
    peer.send(frame(TEXT, b"hello"), frame(TEXT, b"again"))
    peer.close_code()


@test
def tls_probe_ends_with_0_after_the_messages_it_waits_for():
    with Server(hello_over_tls) as server:
        probe(server.at(scheme="wss", host="localhost")).is_good()
        probe(server.at(scheme="wss", host="localhost"), GW_MSGS=2).is_good()
        expect(server.count == 2, "connections:", server.count)
        probe(server.at(scheme="wss", host="localhost"), GW_MSGS=3, GW_TIMEOUT=0.4).is_class("timeout", "message")


@test
def tls_works_one_byte_at_a_time():
    with Server(hello_over_tls) as server, Server(lambda client: relay(client, server.port, one_byte_each, one_byte_each)) as slow:
        probe(slow.at(scheme="wss", host="localhost"), GW_MSGS=2, GW_TIMEOUT=PATIENCE).is_good()


@test
def tls_takes_records_of_one_byte():
    def play(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        peer = Peer(tls, upgrade=False)
        for byte in answer_101(peer.key) + frame(TEXT, b"x" * 300):
            tls.sendall(bytes([byte]))
        peer.close_code()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost")).is_good()


@test
def tls_takes_large_records_and_many_of_them():
    def play(client):
        peer = Peer(server_tls().wrap_socket(client, server_side=True))
        for size in (16384, 16385, 1000000):
            peer.send(frame(TEXT, b"x" * size))
        peer.close_code()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost"), GW_MSGS=3).is_good()


@test
def tls_sends_the_server_name_but_no_ip_address():
    names = []

    def play(client):
        context = server_tls()
        context.sni_callback = lambda connection, name, _: names.append(name)
        hello = Peer(context.wrap_socket(client, server_side=True))
        hello.send(frame(TEXT, b"hello"))
        hello.close_code()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost")).is_good()
        probe(server.at(scheme="wss", host="127.0.0.1")).is_good()
    expect(names == ["localhost", None], names)


# ---- certificates ---------------------------------------------------------------------------------------------------
@test
def tls_expired_certificates_are_told_with_our_clock():
    year = str(datetime.datetime.now(datetime.timezone.utc).year)
    against("expired").is_class("cert_expired", "localhost", "2021-01-01", year)
    against("expired-intermediate").is_class("cert_expired", "2021-01-01", year)


@test
def tls_not_yet_valid_certificates_are_told_with_our_clock():
    before = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    run = against("not-yet").is_class("cert_not_yet", "localhost", "2048-01-01", "clock")
    after = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    expect(before in run.last["msg"] or after in run.last["msg"], "does not say what our clock reads:", run.last["msg"])


@test
def tls_wrong_host_is_told_with_both_names():
    against("wrong-host").is_class("cert_name", "localhost", "example.test")
    against("wildcard").is_class("cert_name", "localhost", "gateway.test")


@test
def tls_an_ip_address_must_be_in_the_certificate():
    against("names-only").is_class("http", TLS_WORKED)
    against("names-only", host="127.0.0.1").is_class("cert_name", "127.0.0.1", "localhost")
    against("wrong-host", host="127.0.0.1").is_class("cert_name", "127.0.0.1", "192.0.2.1")
    against("no-san", host="127.0.0.1").is_class("cert_name", "127.0.0.1")


@test
def tls_unknown_authorities_are_told_by_name():
    against("unknown-ca").is_class("cert_untrusted", "gw other root", "ca_file")
    against("server", ca=os.path.join(CERTS, "other-ca.pem")).is_class("cert_untrusted", "gw test root")


@test
def tls_an_authority_with_the_right_name_and_the_wrong_key_is_not_trusted():
    against("server", ca=os.path.join(CERTS, "impostor-ca.pem")).is_class("cert_untrusted", "gw test root", "did not sign")


@test
def tls_self_signed_is_told():
    against("self-signed").is_class("cert_untrusted", "self-signed")


@test
def tls_a_missing_intermediate_is_told():
    against("missing-intermediate").is_class("cert_untrusted", "gw test intermediate", "no intermediate")


WEAK = ("-cipher", "DEFAULT@SECLEVEL=0")       # OpenSSL itself would not serve it otherwise
LEAF, ABOVE = "certificate of localhost", '"gw test intermediate" above that of localhost'
REFUSED = (     # certificate, key, options, words of the sentence
    ("rsa1024", "rsa1024", WEAK, LEAF, "RSA key below 2048 bits"),
    ("sha1", "server", WEAK, LEAF, "signed with SHA-1"),
    ("wrong-usage", "server", (), LEAF, "not made for TLS servers (extended key usage)"),
    ("critical", "server", (), LEAF, "critical extension that we do not know"),
    ("key-usage-rsa", "server-rsa", (), "localhost", "may not be used with the cipher", "(key usage)"),
    ("key-encipherment", "server-rsa", (), "localhost", "may not be used with the cipher", "(key usage)"),
    ("not-a-ca", "server", (), '"localhost" above that of localhost', "not one of a CA"),
    ("no-ca-flag", "server", (), ABOVE, "not one of a CA"),
    ("false-ca-flag", "server", (), ABOVE, "not one of a CA"),
    ("ca-path", "server", (), '"gw test last" above that of localhost', "not of so long a chain"),
    ("ca-may-not-sign", "server", (), ABOVE, "by its key usage"),
    ("mail-intermediate", "server", (), ABOVE, "not made for TLS servers (extended key usage)"),
    ("ca-critical", "server", (), ABOVE, "critical extension that we do not know"),
    ("ca-sha1", "server", WEAK, ABOVE, "signed with SHA-1"),
    ("ca-rsa1024", "server", WEAK, '"gw test weak" above that of localhost', "RSA key below 2048 bits"),
)


@test
def tls_certificates_that_may_not_serve_are_refused_each_with_its_sentence():      # EC with cRLSign: test_tls.c
    for certificate, key, options, *words in REFUSED:
        against(certificate, key, *options).is_class("cert_invalid", *words)


@test
def tls_no_two_causes_share_a_sentence():
    causes = [("expired",), ("not-yet",), ("wrong-host",), ("unknown-ca",), ("self-signed",), ("missing-intermediate",), ("large",),
              ("server", "server", "-tls1_3"), ("server", "server", "-tls1_1") + WEAK,
              ("server", "server", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256")]
    causes += [(name, key) + options for name, key, options, *_ in REFUSED
               if name not in ("key-encipherment", "false-ca-flag")]       # the same cause as the line above theirs
    told = {}
    for cause in causes:
        told.setdefault(against(*cause).last["msg"], []).append(cause)
    expect(len(told) == len(causes), "one sentence for several:", [same for same in told.values() if len(same) > 1])


@test
def tls_a_wildcard_stands_for_one_label():
    against("wildcard", host="shard.gateway.test", GW_RESOLVE="127.0.0.1").is_class("http", TLS_WORKED)
    for host in ("gateway.test", "a.shard.gateway.test", "shardgateway.test", "shard.gateway.test.example"):
        against("wildcard", host=host, GW_RESOLVE="127.0.0.1").is_class("cert_name", host, "*.gateway.test")


@test
def tls_a_certificate_above_8_kib_is_refused():
    against("large").is_class("cert_invalid", "8")


@test
def tls_a_ca_file_that_cannot_be_read_trusts_nobody():
    against("server", ca="/nowhere/ca.pem").is_class("cert_untrusted", "/nowhere/ca.pem")
    against("server", ca=CERTS).is_class("cert_untrusted", CERTS)
    against("server", ca=os.path.join(CERTS, "server.key")).is_class("cert_untrusted", "server.key", "BEGIN CERTIFICATE")


# ---- versions, suites, alerts ---------------------------------------------------------------------------------------
@test
def tls_1_3_only_is_told():
    against("server", "server", "-tls1_3").is_class("tls_version", "1.3")


@test
def tls_1_1_only_is_told():
    against("server", "server", "-tls1_1", *WEAK).is_class("tls_version", "1.2")


@test
def tls_1_0_only_is_told():
    against("server", "server", "-tls1", *WEAK).is_class("tls_version", "1.2")
    against("server-rsa", "server-rsa", "-tls1", *WEAK).is_class("tls_version", "1.2")


@test
def tls_no_common_suite_is_told():
    against("server", "server", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256").is_class("tls_alert", "handshake_failure", "cipher")
    against("server-rsa", "server-rsa", "-tls1_2", "-cipher", "AES128-GCM-SHA256").is_class("tls_alert", "handshake_failure")


@test
def tls_a_wish_for_a_client_certificate_is_told():
    against("server", "server", "-tls1_2", "-Verify", "1").is_class("tls_alert")


def first_answer(answer, then=None):
    """A server that reads the ClientHello, answers with bytes and ends."""
    def play(client):
        client.recv(65536)
        try:
            client.sendall(answer)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return                              # the probe has heard enough, and has left already
        drain(client)
    with Server(play) as server:
        return probe(server.at(scheme="wss", host="localhost"))


def alert(code, level=2):
    return bytes([21, 3, 3, 0, 2, level, code])


@test
def tls_alerts_are_told_by_name():
    for code, name in ((40, "handshake_failure"), (80, "internal_error"), (112, "unrecognized_name"), (48, "unknown_ca"),
                       (200, "200")):
        first_answer(alert(code)).is_class("tls_alert", "alert %d" % code, name)
    first_answer(alert(70)).is_class("tls_version", "1.3")


# ---- peers that are no TLS servers, or break ------------------------------------------------------------------------
@test
def tls_plain_http_is_told():
    first_answer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").is_class("tls_protocol", "plain HTTP", "no TLS port")


@test
def tls_another_protocol_is_told():
    first_answer(b"SSH-2.0-OpenSSH_9.2\r\n").is_class("tls_protocol", "does not speak TLS", "SSH-2")
    first_answer(b"220 mail ESMTP\r\n").is_class("tls_protocol", "does not speak TLS")


@test
def tls_garbage_is_told():
    first_answer(bytes(range(0x80, 0x100)) * 8).is_class("tls_protocol")
    first_answer(b"\x00" * 500).is_class("tls_protocol")
    first_answer(bytes([22, 3, 3, 0, 5]) + b"\xff" * 5).is_class("tls_protocol")        # a handshake message that is none
    first_answer(bytes([22, 3, 3, 0xff, 0xff]) + b"x" * 65535).is_class("tls_protocol", "record")   # longer than a record
    first_answer(bytes([23, 3, 3, 0, 32]) + b"x" * 32).is_class("tls_protocol")         # application data before its time


@test
def tls_an_end_at_once_is_told():
    first_answer(b"").is_class("eof", "localhost", "TLS port")


@test
def tls_a_reset_is_told():
    def play(client):
        client.recv(65536)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost")).is_class("eof", "reset")


def through(on_answer, **more):
    """tls_probe against a good server behind a relay that meddles with its answers."""
    def quiet(client):
        try:
            hello_over_tls(client)
        except (OSError, Failed):
            pass            # the relay has cut it
    with Server(quiet) as server, Server(lambda client: relay(client, server.port, on_answer)) as middle:
        return probe(middle.at(scheme="wss", host="localhost"), **more)


@test
def tls_an_end_at_any_place_of_the_handshake_is_told():
    for place in (1, 4, 5, 6, 50, 200, 900):
        def cut(piece, sent, place=place):
            return piece if sent + len(piece) < place else [piece[:place - sent], None]
        through(cut).is_class("eof")


@test
def tls_an_end_without_close_notify_is_told():
    def play(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        read_head(tls)
        raw = socket.socket(fileno=os.dup(tls.fileno()))    # below TLS: nobody says goodbye
        raw.shutdown(socket.SHUT_RDWR)
        raw.close()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost")).is_class("eof", "without close_notify")


@test
def tls_an_end_with_close_notify_is_told():
    def play(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        read_head(tls)
        tls.unwrap()
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost")).is_class("eof", "localhost")


@test
def tls_an_end_inside_a_frame_is_a_lost_connection_and_no_message():
    whole = frame(TEXT, b"x" * 300)
    fragments = frame(TEXT, b"half", fin=0)
    for say_goodbye in (False, True):
        for part in (whole[:1], whole[:3], whole[:4], whole[:5], whole[:-1], fragments, fragments + frame(0, b"rest")[:-1]):
            def play(client, part=part, say_goodbye=say_goodbye):
                tls = server_tls().wrap_socket(client, server_side=True)
                Peer(tls).send(whole, part)
                if say_goodbye:
                    tls.unwrap()
                else:
                    client = socket.socket(fileno=os.dup(tls.fileno()))
                    client.shutdown(socket.SHUT_WR)
                    drain(client)
                    client.close()
            with Server(play) as server:
                run = probe(server.at(scheme="wss", host="localhost"), GW_MSGS=2).is_class("eof", "localhost")
                expect(say_goodbye or "without close_notify" in run.last["msg"], run.last)


def by_hand(*said):
    """tls_probe, waiting for two messages, against openssl s_server, which sends what it reads: an answer to the upgrade,
    then each of `said`. Gives the run, and what s_server told."""
    with OpenSsl("server", "server", "-tls1_2", www=False) as server:
        runs = []
        thread = threading.Thread(target=lambda: runs.append(probe(server.at(), GW_MSGS=2)))
        thread.start()
        for line in server.process.stdout:
            if line.lower().startswith(b"sec-websocket-key:"):
                key = line.split()[1].decode()
            if line == b"\r\n":
                break
        for part in (answer_101(key),) + said:
            server.process.stdin.write(part)
            server.process.stdin.flush()
            time.sleep(0.1)                     # a word to s_server itself has to come in a read of its own
        thread.join(PATIENCE)
        expect(runs, "the probe does not end")
        return runs[0], server.process.stdout.read()


@test
def tls_openssl_that_wants_to_renegotiate_is_refused():
    """The client says no_renegotiation; OpenSSL then ends with an alert of its own. r: at once, R: with a wish for our
    certificate."""
    by_hand(frame(TEXT, b"hello"), frame(TEXT, b"again"), b"Q\n")[0].is_good()
    by_hand(frame(TEXT, b"hello"), b"Q\n")[0].is_class("eof", "localhost")         # ends, with close_notify
    for word in (b"r\n", b"R\n"):
        run, told = by_hand(frame(TEXT, b"hello"), word)
        run.is_class("tls_alert", "alert 40")
        expect(b"no renegotiation" in told, "OpenSSL did not ask, or was not refused", told)


def records(pieces):
    """A hook for relay(): `pieces(record, number)` gives what goes on in place of each record of TLS."""
    state = {"left": b"", "seen": 0}

    def hook(piece, sent):
        state["left"] += piece
        out = []
        while len(state["left"]) >= 5:
            length = 5 + int.from_bytes(state["left"][3:5], "big")
            if len(state["left"]) < length:
                break
            record, state["left"] = state["left"][:length], state["left"][length:]
            state["seen"] += 1
            out += pieces(record, state["seen"])
        return b"".join(out)
    return hook


def damage(kind, number):
    """A hook for relay(): flips a bit in the number-th record of a kind."""
    seen = [0]

    def flip(record, _):
        seen[0] += record[0] == kind
        return [record[:-1] + bytes([record[-1] ^ 1])] if record[0] == kind and seen[0] == number else [record]
    return records(flip)


@test
def tls_a_damaged_record_is_told():
    through(damage(23, 1)).is_class("tls_mac", "damaged")
    through(damage(23, 2)).is_class("tls_mac", "damaged")


@test
def tls_a_damaged_handshake_is_told():
    for number in (1, 2, 3):
        run = through(damage(22, number))
        expect(run.code == 1 and run.last["class"] in ("tls_protocol", "tls_mac", "tls_alert", "cert_invalid", "cert_untrusted"),
               number, run.last)


# ---- silence, and no way there --------------------------------------------------------------------------------------
@test
def tls_a_silent_peer_is_told():
    with Server(lambda client: server.ended.wait(PATIENCE)) as server:
        run = probe(server.at(scheme="wss", host="localhost"), GW_TIMEOUT=0.3).is_class("timeout", "localhost", "handshake")
        expect(0.25 < run.seconds < 3, "took", run.seconds)


@test
def tls_a_handshake_that_stops_is_told():
    def stop(piece, sent):
        return piece[:max(0, 300 - sent)]
    through(stop, GW_TIMEOUT=0.3).is_class("timeout", "handshake")


@test
def tls_a_stall_at_each_record_is_told():
    """ServerHello, Certificate, ServerKeyExchange, ServerHelloDone, ChangeCipherSpec, Finished, 101, the frames: each stops
    before its record, inside its header, inside its body."""
    count = [0]

    def just_count(record, number):
        count[0] = number
        return [record]
    through(records(just_count)).is_good()
    expect(count[0] >= 6, "records:", count[0])
    for at in range(1, count[0] + 1):
        for left in (0, 3, 7):
            def stall(record, number, at=at, left=left):
                return [record] if number < at else [record[:left]] if number == at else []
            run = through(records(stall), GW_TIMEOUT=0.15, GW_MSGS=2).is_class("timeout", "localhost")
            expect(0.1 < run.seconds < 3, "record", at, "took", run.seconds)


@test
def tls_silence_after_the_handshake_is_told():
    def play(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        read_head(tls)
        server.ended.wait(PATIENCE)
    with Server(play) as server:
        probe(server.at(scheme="wss", host="localhost"), GW_TIMEOUT=0.4).is_class("timeout", "upgrade")


@test
def tls_a_trickle_does_not_prolong_the_time():
    def trickle(client):
        with server_tls().wrap_socket(client, server_side=True) as tls:
            peer = Peer(tls)
            try:
                while not server.ended.wait(0.02):
                    peer.send(frame(9, b"still here"))
            except OSError:
                pass
    with Server(trickle) as server:
        run = probe(server.at(scheme="wss", host="localhost"), GW_TIMEOUT=0.5).is_class("timeout", "message")
        expect(run.seconds < 3, "took", run.seconds)


@test
def net_a_closed_port_is_told():
    with socket.socket() as held:           # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        probe("wss://127.0.0.1:%d/" % port).is_class("net", "127.0.0.1", str(port), "refused")


@test
def net_an_unknown_host_is_told():
    run = probe("wss://no-such-host.invalid/", GW_TIMEOUT=18)
    expect(run.code == 1 and run.last["class"] in ("net", "timeout") and "DNS" in run.last["msg"], run.last)
    expect("no-such-host.invalid" in run.last["msg"], run.last)


@test
def net_a_host_that_swallows_the_connect_is_told():
    with socket.socket() as full:           # a backlog that is full: the system answers no more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        run = probe("wss://127.0.0.1:%d/" % full.getsockname()[1], GW_TIMEOUT=0.3).is_class("timeout", "127.0.0.1")
        for filler in fillers:
            filler.close()


# ---- the WebSocket behind it ----------------------------------------------------------------------------------------
@test
def tls_probe_tells_http_and_websocket_faults_apart():
    def refuse(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        read_head(tls)
        tls.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nno, you")
        tls.unwrap()

    def gibber(client):
        tls = server_tls().wrap_socket(client, server_side=True)
        read_head(tls)
        tls.sendall(b"\x00\x01 not http\r\n\r\n")

    def mask(client):
        peer = Peer(server_tls().wrap_socket(client, server_side=True))
        peer.send(frame(TEXT, b"x", mask=b"abcd"))
        expect(peer.close_code() == 1002)

    def close(client):
        peer = Peer(server_tls().wrap_socket(client, server_side=True))
        peer.send(close_frame(4004, b"Authentication failed."))
        expect(peer.close_code() == 4004)
    for play, name, words in ((refuse, "http", ("401", "no, you")), (gibber, "http", ("HTTP",)), (mask, "ws", ("mask",)),
                              (close, "ws", ("4004", "Authentication failed."))):
        with Server(play) as server:
            probe(server.at(scheme="wss", host="localhost")).is_class(name, *words)


# ---- how it is used -------------------------------------------------------------------------------------------------
@test
def tls_probe_is_used_wrongly():
    Run("tls_probe").is_misuse("URL")
    Run("tls_probe", "a", "b").is_misuse("URL")
    Run("tls_probe", "--insecure").is_misuse("URL")
    probe("wss://localhost/", GW_TIMEOUT="soon").is_misuse("GW_TIMEOUT")
    probe("wss://localhost/", GW_MSGS="-1").is_misuse("GW_MSGS")


@test
def tls_probe_refuses_urls_as_it_refuses_hosts():
    probe("localhost").is_class("net", "scheme")
    probe("").is_class("net", "URL")
    probe("https://localhost/").is_class("net", "wss://localhost")
    probe("ws://gateway.example/").is_class("net", "clear text")
    probe("wss://user:secret@localhost/").is_class("net", "user name")
    probe("wss://localhost:70000/").is_class("net", "port")


@test
def tls_probe_takes_plain_websockets_on_this_machine():
    def play(client):
        peer = Peer(client)
        peer.send(frame(TEXT, b"hello"))
        peer.close_code()
    with Server(play) as server:
        probe(server.at()).is_good()
        probe(server.at(host="localhost")).is_good()


if __name__ == "__main__":
    code = main("probes_tls_test")
    folder.cleanup()
    sys.exit(code)
