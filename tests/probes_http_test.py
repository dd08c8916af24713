#!/usr/bin/python3
"""GET /api/v10/gateway/bot: http_probe against Python's http.server, and against servers on plain sockets that break HTTP."""
import http.server
import json
import os
import socket
import sys
import threading

from probes import Run, Server, drain, read_head, server_tls
from support import CERTS, PATIENCE, TOKEN, expect, main, test

ANSWER = {"url": "wss://gateway.discord.gg", "shards": 9,
          "session_start_limit": {"total": 1000, "remaining": 999, "reset_after": 14400000, "max_concurrency": 1}}
WANTED = {"url": "wss://gateway.discord.gg", "shards": 9, "total": 1000, "remaining": 999, "reset_after": 14400000,
          "max_concurrency": 1}
BODY = json.dumps(ANSWER).encode()


def probe(url, token=TOKEN, **more):
    if token is not None:
        more["DISCORD_TOKEN"] = token
    return Run("http_probe", url, **more)


def gives(run, wanted=WANTED):
    run.is_good()
    expect(run.last == wanted and list(run.last) == list(WANTED), "expected", wanted, "and got", run.out)


def against(*parts, end=True, **more):
    """A server that takes the request, sends the parts and ends; or, with end=False, waits for the client to end."""
    def play(client):
        read_head(client)
        try:
            for part in parts:
                client.sendall(part)
            if end:
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass                # the client has had enough
        drain(client)
    with Server(play) as server:
        run = probe(server.at(scheme="http"), **more)
        expect(server.count == 1, "connections:", server.count)
        return run


def ok(body=BODY, *headers):
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: %d" % len(body)] + list(headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def refusal(status, body=b"", *headers):
    return ("\r\n".join(["HTTP/1.1 " + status, "Content-Length: %d" % len(body)] + list(headers)) + "\r\n\r\n").encode() + body


def chunked(*chunks, status="200 OK", trailer=b""):
    head = b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n" % status.encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"


# ---- the request ----------------------------------------------------------------------------------------------------
class Handler(http.server.BaseHTTPRequestHandler):
    """Discord's part, as Python's http.server speaks HTTP."""
    protocol_version = "HTTP/1.1"
    seen = []

    def do_GET(self):
        self.seen.append((self.path, dict(self.headers)))
        right = self.headers["Authorization"] == "Bot " + TOKEN
        body = BODY if right else b'{"message": "401: Unauthorized", "code": 0}'
        self.send_response(200 if right else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class HttpServer:
    def __init__(self, tls=False):
        Handler.seen.clear()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = server_tls().wrap_socket(self.server.socket, server_side=True)
        self.base = "%s:%d" % ("https://localhost" if tls else "http://127.0.0.1", self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@test
def http_asks_once_and_as_discord_wants_it():
    with HttpServer() as server:
        gives(probe(server.base))
        (path, headers), = Handler.seen
        expect(path == "/api/v10/gateway/bot", path)
        expect(headers["Host"] == server.base[7:] and headers["Authorization"] == "Bot " + TOKEN, headers)
        expect(headers["User-Agent"].startswith("DiscordBot (https://"), headers)


@test
def http_asks_over_tls():
    with HttpServer(tls=True) as server:
        gives(probe(server.base))
        probe(server.base, ca=None, SSL_CERT_FILE="/nowhere.pem").is_class("cert_untrusted", "/nowhere.pem")
        probe(server.base.replace("localhost", "127.0.0.1").replace("https", "http")).is_class("eof")


@test
def http_keeps_the_path_of_its_base():
    with HttpServer() as server:
        for base, path in (("/", "/api/v10/gateway/bot"), ("/proxy", "/proxy/api/v10/gateway/bot"), ("/a/b/", "/a/b/api/v10/gateway/bot")):
            gives(probe(server.base + base))
            expect(Handler.seen[-1][0] == path, Handler.seen[-1])


@test
def http_strips_what_is_pasted_with_a_token():
    with HttpServer() as server:
        for token in ("Bot " + TOKEN, TOKEN + "\n", " Bot  " + TOKEN + "\r\n"):
            gives(probe(server.base, token))


@test
def http_a_token_cannot_write_headers():
    with HttpServer() as server:
        run = probe(server.base, TOKEN + "\r\nX-Other: 1", GW_TIMEOUT=1)
        expect(run.code != 0 and TOKEN not in run.out + run.err, run.code, run.out, run.err)
        expect(not Handler.seen, Handler.seen)


@test
def http_a_wrong_token_is_told_without_the_token():
    with HttpServer() as server:
        for token in (None, "", "MTA.wrong.token-of-somebody"):
            probe(server.base, token).is_class("http_401", "401: Unauthorized", "token")
    run = against(refusal("401 Unauthorized", ("{\"you sent\": \"%s\"}" % TOKEN).encode())).is_class("http_401", "you sent")
    expect(TOKEN not in run.out + run.err, "shows the token:", run.out)


# ---- the answer, in each shape that HTTP allows ---------------------------------------------------------------------
@test
def http_bodies_end_by_length_by_chunks_and_by_close():
    gives(against(ok(), end=False))
    gives(against(chunked(BODY), end=False))
    gives(against(chunked(*[BODY[at:at + 1] for at in range(len(BODY))]), end=False))
    gives(against(chunked(BODY, trailer=b"X-Trailer: 1\r\n"), end=False))
    gives(against(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%X;name=value\r\n%s\r\n00\r\n\r\n" % (len(BODY), BODY), end=False))
    gives(against(b"HTTP/1.1 200 OK\r\n\r\n" + BODY))
    gives(against(b"HTTP/1.0 200 OK\r\n\r\n" + BODY))


@test
def http_answers_come_one_byte_at_a_time():
    for answer in (ok(), chunked(BODY[:50], BODY[50:]), b"HTTP/1.1 200 OK\r\n\r\n" + BODY):
        gives(against(*[answer[at:at + 1] for at in range(len(answer))]))


@test
def http_interim_answers_are_passed_over():
    gives(against(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 5\r\n\r\n" + ok()))
    against(b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + ok()).is_class("http", "interim")


@test
def http_header_names_are_taken_in_any_case():
    gives(against(b"HTTP/1.1 200 \r\ncontent-LENGTH:\t%d \r\nX:\r\n\r\n%s" % (len(BODY), BODY), end=False))
    gives(against(b"HTTP/1.1 200\r\nContent-Length: %d\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), len(BODY), BODY), end=False))


@test
def http_what_follows_the_body_is_not_read():
    gives(against(ok() + b"HTTP/1.1 500 Smuggled\r\n\r\n", end=False))


# ---- refusals -------------------------------------------------------------------------------------------------------
@test
def http_each_status_is_a_class():
    for status in (400, 401, 403, 404, 405, 418, 500, 502, 503, 504):
        run = against(refusal("%d Because" % status, b'{"message": "the body says why"}'))
        run.is_class("http_%d" % status, str(status), "127.0.0.1", "the body says why")
    against(chunked(b"chun", b"ked", status="503 Later")).is_class("http_503", "chunked")
    against(b"HTTP/1.1 502 Bad Gateway\r\n\r\nuntil the end").is_class("http_502", "until the end")
    against(refusal("204 No Content")).is_class("http_204")


@test
def http_refusals_may_have_bodies_of_any_kind():
    against(refusal("403 No", b"<html>\r\n\x1b[31m\xff\x00error code: 1020</html>")).is_class("http_403", "error code: 1020")
    against(refusal("500 No", b"x" * 900000)).is_class("http_500")
    against(b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 3000000).is_class("http_500")


@test
def http_429_says_how_long_to_wait():
    def wait(*headers, body=b"{}"):
        return against(refusal("429 Too Many Requests", body, *headers))
    wait("Retry-After: 3").is_class("http_429", "3000 ms")
    wait("Retry-After: 0.25").is_class("http_429", "250 ms")
    wait(body=b'{"message": "You are being rate limited.", "retry_after": 1.5, "global": false}').is_class("http_429", "150", "rate limited")
    wait("Retry-After: 1", body=b'{"retry_after": 64.57}').is_class("http_429", "645")       # the longer of the two
    wait("Retry-After: 99999999999999999999").is_class("http_429", "3600000 ms")
    wait(body=b'{"retry_after": 1e300}').is_class("http_429")
    wait(body=b'{"retry_after": -5}').is_class("http_429")
    wait("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT").is_class("http_429")
    wait(body=b"<html>slow down</html>").is_class("http_429", "slow down")


@test
def http_redirects_are_not_followed():
    with Server(lambda client: client.recv(65536)) as other:
        for status in (301, 302, 303, 307, 308):
            against(refusal("%d Moved" % status, b"", "Location: http://127.0.0.1:%d/" % other.port)).is_class("http_%d" % status, "redirect")
        expect(other.count == 0, "followed a redirect, with the token")


# ---- what is no answer ----------------------------------------------------------------------------------------------
@test
def http_bad_json_is_told():
    for body in (b"", b"{", b"null", b"[]", b"<html>", b'{"url": ""}', b'{"shards": 1}', BODY[:-1], BODY + b"}",
                 b'{"url": "wss://gateway.discord.gg" "shards": 1}', b"[" * 10000, b"\xff\xfe{}"):
        against(ok(body)).is_class("http", "JSON")


@test
def http_the_gateways_url_must_be_one_that_is_safe():
    for url in ("ws://gateway.example/", "javascript:1", "gateway.discord.gg", "wss://u:p@host/", "wss://host/\\u0000", "wss://" + "h" * 400):
        run = against(ok(('{"url": "%s"}' % url).encode())).is_class("http")
        expect(len(run.last["msg"]) > 20, run.last)
    against(ok(b'{"url": 5}')).is_class("http", "URL")


@test
def http_numbers_are_bounded():
    limit = {"total": 1e30, "remaining": -5, "reset_after": 1 << 70, "max_concurrency": 0}
    run = against(ok(json.dumps({"url": "wss://host", "shards": 1 << 80, "session_start_limit": limit}).encode())).is_good()
    for name in ("shards", "total", "remaining", "max_concurrency"):
        expect(0 <= run.last[name] <= 1000000, name, run.out)
    expect(run.last["shards"] >= 1 and run.last["max_concurrency"] >= 1 and run.last["reset_after"] <= 2 * 86400000, run.out)
    gives(against(ok(b'{"url": "wss://host", "shards": "9", "session_start_limit": null}')),
          dict(WANTED, url="wss://host", shards=1, total=1000, remaining=1000, reset_after=86400000))


@test
def http_lengths_that_lie_are_told():
    for value in ("-1", "1000000000000000000", "99999999999999999999999", "0x10", "5, 6", "", "+5", "1 2"):
        against(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n%s" % (value.encode(), BODY)).is_class("http", "Content-Length")
    against(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456").is_class("http", "Content-Length")
    against(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").is_class("http", "Transfer-Encoding")
    against(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n").is_class("http", "Transfer-Encoding")
    against(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY) + 1, BODY)).is_class("eof", "closed")
    against(chunked(BODY)[:-5]).is_class("eof", "closed")


@test
def http_chunks_that_lie_are_told():
    for size in (b"-1", b"ffffffffffffffff", b"zz", b"", b"0x5", b" 5", b"5 5"):
        against(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n").is_class("http", "chunk")
    against(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234567\r\n0\r\n\r\n").is_class("http")


@test
def http_too_much_is_told():
    against(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n").is_class("http", "8 KiB")
    against(b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 101 + b"\r\n").is_class("http", "100 header lines")
    against(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 4000 + b"\r\n") * 20 + b"\r\n").is_class("http", "32 KiB")
    against(ok(b" " * 100000 + BODY)).is_class("http", "larger")
    against(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 5000000).is_class("http", "larger")
    against(chunked(*[b" "] * 30000)).is_class("http", "larger")


@test
def http_malformed_heads_are_told():
    for head in (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}", b"HTTP/1.1 20 OK\r\n\r\n",
                 b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1  200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n folded\r\n\r\n", b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n",
                 b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", b"HTTP/1.1 999 No\r\n\r\n"):
        against(head).is_class("http", "HTTP")


@test
def http_garbage_is_told():
    for noise in (b"\x00" * 100, bytes(range(256)), b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"HTTP/2.0 200 OK\r\n\r\n",
                  b"ICY 200 OK\r\n\r\n", b"<html></html>", b"\r\n" + ok()):
        against(noise, end=False).is_class("http", "does not speak HTTP/1")


@test
def http_an_end_is_told():
    against().is_class("eof", "127.0.0.1")
    for answer in (ok(), chunked(BODY)):
        for at in range(1, len(answer), 23):
            against(answer[:at]).is_class("eof", "closed")


# ---- silence, and no way there --------------------------------------------------------------------------------------
def slow(run, *words):
    run.is_class("timeout", "127.0.0.1", *words)
    expect(run.seconds < 3, "took", run.seconds)


@test
def http_silence_is_told():
    slow(against(end=False, GW_TIMEOUT=0.3), "gateway/bot")
    slow(against(b"HTTP/1.1 200 OK\r\nContent-Le", end=False, GW_TIMEOUT=0.3))
    slow(against(ok()[:-1], end=False, GW_TIMEOUT=0.3))
    slow(against(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, end=False, GW_TIMEOUT=0.3))      # its body never ends
    slow(against(chunked(BODY)[:-2], end=False, GW_TIMEOUT=0.3))


@test
def http_a_trickle_does_not_prolong_the_time():
    def trickle(client):
        read_head(client)
        try:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not server.ended.wait(0.02):
                client.sendall(b" ")
        except OSError:
            pass
    with Server(trickle) as server:
        slow(probe(server.at(scheme="http"), GW_TIMEOUT=0.4))


@test
def http_a_silent_tls_peer_is_told():
    with Server(lambda client: server.ended.wait(PATIENCE)) as server:
        probe(server.at(scheme="https", host="localhost"), GW_TIMEOUT=0.3).is_class("timeout", "handshake")


@test
def http_no_way_there_is_told():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        probe("http://127.0.0.1:%d" % held.getsockname()[1]).is_class("net", "127.0.0.1", "refused")
    with HttpServer(tls=True) as server:
        probe(server.base, ca=os.path.join(CERTS, "other-ca.pem")).is_class("cert_untrusted")
    with HttpServer() as server:
        probe(server.base.replace("http", "https")).is_class("tls_protocol", "does not speak TLS")


# ---- how it is used -------------------------------------------------------------------------------------------------
@test
def http_probe_is_used_wrongly():
    Run("http_probe").is_misuse("URL")
    Run("http_probe", "https://discord.com", "more").is_misuse("URL")
    Run("http_probe", "--help").is_misuse("URL")
    probe("https://discord.com", GW_TIMEOUT="0").is_misuse("GW_TIMEOUT")


@test
def http_probe_refuses_urls_as_it_refuses_hosts():
    probe("discord.com").is_class("net", "scheme")
    probe("").is_class("net", "URL")
    probe("http://discord.com").is_class("net", "clear text")
    probe("wss://discord.com").is_class("net", "https://")


if __name__ == "__main__":
    sys.exit(main("probes_http_test"))
