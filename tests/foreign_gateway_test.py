#!/usr/bin/python3
"""tail against a gateway that is not ours: Debian's python3-websockets (10.4) speaks RFC 6455, OpenSSL speaks TLS.

  python3 tests/foreign_gateway_test.py [-v] [part of a test's name]

First whole sessions against that scripted gateway, then the list of bad input: what a user may get wrong, and what a
broken server may send, each with the sentence that tail says."""
import asyncio
import base64
import hashlib
import json
import logging
import os
import signal
import socket
import ssl
import struct
import threading
import time

import websockets
from websockets.frames import OP_CONT, OP_TEXT

from support import CERTS, PATIENCE, TOKEN, Failed, Tail, expect, free_port, main, test

logging.getLogger("websockets").setLevel(logging.CRITICAL)     # a connection that is cut is no news here

SESSION_ID = "5e5510-\"quoted\"-\\-/"           # to be unescaped before use, and escaped again in Resume
MESSAGES = ["!ping", "na\u00efve caf\u00e9", "\u65e5\u672c\u8a9e", "\U0001f389 party", "quote \" backslash \\ slash /",
            "zero \u0000 and tab \t", ""]


def server_tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = "server.key"
    context.load_cert_chain(os.path.join(CERTS, certificate + ".pem"), os.path.join(CERTS, key))
    return context


class Connection:
    """One client at the scripted gateway: answers heartbeats by itself, hands out every other payload."""

    def __init__(self, gateway, ws, number):
        self.gateway, self.ws, self.number = gateway, ws, number
        self.path, self.headers = ws.path, ws.request_headers
        self.payloads, self.beats = asyncio.Queue(), asyncio.Queue()
        self.ack = True
        self.reader = asyncio.ensure_future(self.read())

    async def read(self):
        try:
            async for message in self.ws:
                payload = json.loads(message)
                if payload["op"] != 1:
                    self.payloads.put_nowait(payload)
                    continue
                self.beats.put_nowait(payload["d"])
                if self.ack:
                    await self.ws.send('{"op":11}')
        except websockets.ConnectionClosed:
            pass

    async def hello(self, interval_ms=41250):
        d = {"heartbeat_interval": interval_ms, "_trace": ["[\"foreign\"]"]}
        await self.ws.send(json.dumps({"t": None, "s": None, "op": 10, "d": d}))

    async def expect(self, op):
        payload = await asyncio.wait_for(self.payloads.get(), PATIENCE)
        expect(payload["op"] == op, "expected op", op, "and got", payload)
        return payload["d"]

    def text_of(self, name, d):
        self.gateway.seq += 1
        self.gateway.sent.append(self.gateway.seq)
        return json.dumps({"t": name, "s": self.gateway.seq, "op": 0, "d": d})

    async def dispatch(self, name, d):
        await self.ws.send(self.text_of(name, d))

    def ready_text(self, resume_url=None):
        return self.text_of("READY", {
            "v": 10, "user": {"id": "1098765432109876543", "username": "foreign"}, "session_id": SESSION_ID,
            "resume_gateway_url": resume_url or self.gateway.url + "/resume", "guilds": [],
            "application": {"id": "1098765432109876544", "flags": 0}})

    async def resumed(self):
        await self.dispatch("RESUMED", {"_trace": []})

    async def messages(self, count):
        for index in range(count):
            await self.dispatch("MESSAGE_CREATE", {"id": str(index), "content": MESSAGES[index % len(MESSAGES)],
                                                   "author": {"username": "kim"}})

    async def take_close(self):
        """Waits for the client's end; gives the close code that it sent, None if it sent none."""
        await asyncio.wait_for(self.ws.wait_closed(), PATIENCE)
        return self.ws.close_rcvd.code if self.ws.close_rcvd else None

    def raw(self, data):
        """Bytes below the WebSocket, inside TLS."""
        self.ws.transport.write(data)

    def cut(self, reset=False):
        if reset:       # RST in place of FIN
            tcp = self.ws.transport.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.ws.transport.abort()


class Gateway:
    """Runs `script(connection)`, a coroutine, for each client that connects. What it raises, check() raises again."""

    def __init__(self, script, certificate="server"):
        self.script, self.certificate = script, certificate
        self.count, self.seq, self.sent, self.faults = 0, 0, [], []
        self.done = threading.Event()           # the script has come to its end
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(started,), daemon=True)
        self.thread.start()
        expect(started.wait(PATIENCE), "the scripted gateway did not start")

    def run(self, started):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(websockets.serve(
            self.serve, "127.0.0.1", 0, ssl=server_tls(self.certificate), close_timeout=PATIENCE, ping_interval=None))
        self.port = server.sockets[0].getsockname()[1]
        self.url = "wss://localhost:%d" % self.port
        started.set()
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(server.wait_closed())
        self.loop.close()

    async def serve(self, ws, *_):
        self.count += 1
        connection = Connection(self, ws, self.count)
        try:
            await self.script(connection)
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            self.faults.append(fault)
            self.done.set()
        finally:
            connection.reader.cancel()

    def check(self):
        if self.faults:
            raise self.faults[0] if isinstance(self.faults[0], Failed) else Failed(repr(self.faults[0]))

    def wait(self, tail):
        expect(self.done.wait(PATIENCE * 2), "the script did not end; tail's last lines:", tail.lines[-4:], tail.said())
        self.check()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


def expect_identify(d, token=TOKEN, intents=53575421):
    expect(d["token"] == token, "Identify's token")
    expect(d["intents"] == intents, "Identify's intents", d["intents"])
    expect(set(d["properties"]) == {"os", "browser", "device"}, d["properties"])
    expect(set(d) <= {"token", "intents", "properties", "compress", "large_threshold", "shard", "presence"}, list(d))


def expect_resume(connection, d, seq):
    expect(connection.path in ("/resume?v=10&encoding=json", "/resume/?v=10&encoding=json"), connection.path)
    expect(d == {"token": TOKEN, "session_id": SESSION_ID, "seq": seq}, "Resume is", d, "with seq", seq, "expected")


def expect_whole(gateway, tail):
    """Every event that was sent arrived, once, in order."""
    got = [s for _, s in tail.events()]
    expect(got == gateway.sent, "sent", gateway.sent, "and tail printed", got)
    expect(not tail.bad_lines, "lines that are no JSON:", tail.bad_lines[:3])
    expect(TOKEN not in json.dumps(tail.lines) + tail.said(), "the token was shown")


def ended_by_user(tail):
    tail.send_signal(signal.SIGTERM)
    code = tail.wait()
    expect(code == 0, "exit code", code, tail.said())


# ---- whole sessions ------------------------------------------------------------------------------

async def whole_session(c):
    """Five connections of one session."""
    gateway = c.gateway
    if c.number == 1:
        expect(c.path in ("/?v=10&encoding=json", "/?encoding=json&v=10"), c.path)
        expect(c.headers["User-Agent"].startswith("DiscordBot ("), c.headers["User-Agent"])
        expect(not c.ws.extensions and c.ws.subprotocol is None, "nothing was to be offered")
        await c.hello()
        expect_identify(await c.expect(2))
        ready = c.ready_text()
        pong = None

        async def pieces():         # READY in fragments, with a ping between two of them
            nonlocal pong
            for at in range(0, len(ready), 60):
                yield ready[at:at + 60]
                if at == 60:
                    pong = await c.ws.ping(b"between fragments")

        await c.ws.send(pieces())
        await asyncio.wait_for(pong, PATIENCE)
        await c.messages(7)
        octets = c.text_of("MESSAGE_CREATE", {"content": "caf\u00e9 \U0001f389"}).replace("\\u00e9", "\u00e9").encode()
        middle = octets.index("\u00e9".encode()) + 1        # a fragment ends in the middle of a character
        await c.ws.write_frame(False, OP_TEXT, octets[:middle])
        await c.ws.write_frame(False, OP_CONT, b"")
        await c.ws.write_frame(True, OP_CONT, octets[middle:])
        await c.ws.send('{"op":1,"d":null}')                # "beat now": answered at once, with the last seq
        expect(await asyncio.wait_for(c.beats.get(), 5) == gateway.seq, "the heartbeat's seq")
        lost = c.text_of("MESSAGE_CREATE", {"content": "cut in the middle"}).encode()
        gateway.sent.pop()
        gateway.seq -= 1
        c.raw(bytes([0x81, len(lost)]) + lost[:len(lost) // 2])
        c.cut()
    elif c.number == 2:
        await c.hello()
        expect_resume(c, await c.expect(6), gateway.seq)
        await c.messages(3)                                 # what was missed, in order
        await c.resumed()
        await c.messages(5)
        await c.ws.send('{"op":7,"d":null}')
        code = await c.take_close()
        expect(code is None or code not in (1000, 1001), "op 7 was answered by a close with", code)
    elif c.number == 3:
        await c.hello()
        expect_resume(c, await c.expect(6), gateway.seq)
        await c.resumed()
        await c.messages(2)
        await c.ws.close(1001, "going away")                # sends Close and waits for the client's
        answer = c.ws.close_rcvd
        expect(answer and answer.code not in (1000, 1001), "the close was answered by", answer)
    elif c.number == 4:
        await c.hello()
        expect_resume(c, await c.expect(6), gateway.seq)
        await c.resumed()
        await c.messages(2)
        pong = await c.ws.ping(b"in flight")                # all was received before the reset
        await asyncio.wait_for(pong, PATIENCE)
        c.cut(reset=True)
    else:
        expect(c.number == 5, "a connection too many")
        await c.hello()
        expect_resume(c, await c.expect(6), gateway.seq)
        await c.resumed()
        await c.messages(1)
        gateway.done.set()
        code = await c.take_close()
        expect(code == 1000, "the user's end is a close with 1000, not", code)


@test
def a_whole_session_survives_a_cut_op7_a_close_and_a_reset():
    with Gateway(whole_session) as gateway, Tail(gateway.url, "--data") as tail:
        gateway.wait(tail)
        expect(tail.wait_for(lambda line: line.get("s") == gateway.seq), "the last event did not arrive")
        ended_by_user(tail)
        gateway.check()
        expect_whole(gateway, tail)
        expect([line["session_id"] for line in tail.of("ready")] == [SESSION_ID], tail.of("ready"))
        expect(len(tail.of("resumed")) == 4 and len(tail.of("open")) == 5, "resumed and open lines")
        contents = [line["d"]["content"] for line in tail.of("dispatch") if line["t"] == "MESSAGE_CREATE"]
        expect(contents[:8] == MESSAGES + ["caf\u00e9 \U0001f389"], contents[:8])
        closes = [(line["code"], line["reason"], line["session"]) for line in tail.of("close")]
        expect([close[2] for close in closes] == ["kept"] * 4 + ["lost"], closes)
        expect([close[1] for close in closes] == ["lost", "asked", "close_code", "lost", "by_caller"], closes)
        expect(closes[2][0] == 1001, closes)
        expect(all(line["resume"] for line in tail.of("reconnect")), tail.of("reconnect"))
        expect(tail.lines[-1]["ev"] == "stop", tail.lines[-1])


@test
def heartbeats_keep_their_time_and_a_missing_ack_ends_in_a_resume():
    async def script(c):
        await c.hello(1000)
        if c.number == 1:
            await c.expect(2)
            await c.ws.send(c.ready_text())
            times = []
            for _ in range(3):
                expect(await asyncio.wait_for(c.beats.get(), 5) == 1, "the heartbeat's seq")
                times.append(time.monotonic())
            expect(all(0.7 < b - a < 2 for a, b in zip(times, times[1:])), "a beat a second, not", times)
            c.ack = False
            started = time.monotonic()
            await c.take_close()
            expect(time.monotonic() - started < 5, "a connection without ACK is left after two intervals at most")
        else:
            await c.expect(6)
            await c.resumed()
            c.gateway.done.set()
            await c.take_close()

    with Gateway(script) as gateway, Tail(gateway.url) as tail:
        gateway.wait(tail)
        expect(tail.wait_for("resumed"), "no RESUMED")
        expect(tail.of("close")[0]["reason"] == "no_ack", tail.of("close"))
        ended_by_user(tail)
        gateway.check()


@test
def an_invalid_session_leads_to_a_new_identify_at_the_first_address():
    async def script(c):
        await c.hello()
        if c.number == 1:
            await c.expect(2)
            await c.ws.send(c.ready_text())
            c.gateway.seq, c.gateway.sent = 0, []
            await c.ws.send('{"op":9,"d":false}')
            await c.take_close()
        else:
            expect(c.path.startswith("/?"), "Identify belongs to the first address, not", c.path)
            expect_identify(await c.expect(2))
            await c.ws.send(c.ready_text())
            c.gateway.done.set()
            await c.take_close()

    with Gateway(script) as gateway, Tail(gateway.url) as tail:
        gateway.wait(tail)
        expect(tail.wait_for(lambda line: tail.of("ready")[1:]), "no second READY")
        expect(tail.of("session_lost"), "no session_lost line")
        expect(tail.of("close")[0]["session"] == "lost" and not tail.of("reconnect")[0]["resume"], tail.of("close"))
        expect(1000 <= tail.of("reconnect")[0]["in_ms"] <= 6000, tail.of("reconnect"))
        ended_by_user(tail)


@test
def a_session_file_carries_the_session_into_the_next_process():
    async def script(c):
        await c.hello()
        if c.number == 1:
            await c.expect(2)
            await c.ws.send(c.ready_text())
            await c.messages(4)
            c.gateway.done.set()
            code = await c.take_close()
            expect(code not in (1000, 1001), "the session was to be kept, and the close code is", code)
        else:
            expect_resume(c, await c.expect(6), c.gateway.seq)
            await c.messages(2)
            await c.resumed()
            c.gateway.done.set()
            await c.take_close()

    path = os.path.join(os.environ.get("TMPDIR") or "/tmp", "gw-session-%d" % os.getpid())
    try:
        with Gateway(script) as gateway:
            for _ in range(2):
                gateway.done.clear()
                with Tail(gateway.url, "--session", path) as tail:
                    gateway.wait(tail)
                    expect(tail.wait_for(lambda line: line.get("s") == gateway.seq), "the last event did not arrive")
                    ended_by_user(tail)
                    got = [s for _, s in tail.events()]
            gateway.check()
            expect(got == gateway.sent[-3:], "the second process printed", got, "of", gateway.sent)
            expect(os.stat(path).st_mode & 0o777 == 0o600, "others may read the session file")
            with open(path) as file:
                expect(TOKEN not in file.read(), "the session file has the token")
    finally:
        for name in (path, path + ".tmp"):
            if os.path.exists(name):
                os.remove(name)


# ---- bad input from the user: said before anything goes over the wire ----------------------------

def refused(words, url="wss://localhost:1", exit_code=10, reason=None, **env):
    with Tail(url, **env) as tail:
        code = tail.wait()
        expect(code == exit_code, "exit code", code, tail.said())
        for word in words:
            expect(word.lower() in tail.said().lower(), '"%s" is not in: %s' % (word, tail.said()))
        expect(not tail.of("connecting"), "it connected")
        expect(exit_code == 2 or [line["ev"] for line in tail.lines[-2:]] == ["fatal", "stop"], tail.lines)
        expect(TOKEN not in tail.said(), "the token was shown")


@test
def a_url_that_is_none_is_refused():
    for url in ("not a url", "wss://", "wss://localhost:99999", "gateway.discord.gg", "wss://user:pw@localhost"):
        refused(["url"], url)


@test
def an_http_url_is_refused():
    refused(["http://", "ws://localhost"], "http://localhost:1")
    refused(["http://", "wss://gateway.example.com"], "http://gateway.example.com")


@test
def plain_text_to_another_host_is_refused():
    refused(["token"], "ws://gateway.example.com")


@test
def intents_that_do_not_exist_are_refused():
    refused(["intents"], GW_INTENTS="4294967295")


@test
def a_missing_token_names_the_way_without_one():
    refused(["DISCORD_TOKEN", "make run"], token=None, exit_code=2)
    refused(["DISCORD_TOKEN", "make run"], token="", exit_code=2)


@test
def a_ca_file_that_is_none_is_named():
    for path in ("/nonexistent/ca.pem", os.path.join(CERTS, "make_certs.sh")):
        with RawServer(lambda client: client.recv(1)) as server, Tail(server.url, ca=path) as tail:
            line = tail.wait_for(lambda line: line["ev"] in ("close", "fatal"))
            expect(line and path in line["msg"], tail.lines)


@test
def a_token_is_stripped_of_bot_and_line_end():
    async def script(c):
        await c.hello()
        expect_identify(await c.expect(2), intents=513)
        await c.ws.send(c.ready_text())
        c.gateway.done.set()
        await c.take_close()

    for token in ("Bot " + TOKEN, TOKEN + "\n", "Bot " + TOKEN + "\r\n"):
        with Gateway(script) as gateway, Tail(gateway.url, token=token, GW_INTENTS="0x201") as tail:
            gateway.wait(tail)


# ---- bad input from the network: each is one close line with its reason and a sentence -----------

class RawServer:
    """TLS (or plain TCP: certificate None) and a function of bytes for each client."""

    def __init__(self, serve, certificate="server"):
        self.serve, self.context = serve, server_tls(certificate) if certificate else None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "wss://localhost:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client):
        try:
            client.settimeout(PATIENCE)
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
            self.serve(client)
        except (OSError, ValueError):
            pass
        finally:
            client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def read_head(client):
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(4096)
        if not more:
            raise OSError("the client left")
        head += more
    return head.decode()


def answers(text):
    def serve(client):
        read_head(client)
        client.sendall(text.encode())
        client.recv(1)
    return serve


def upgrade(client, accept=None):
    lines = [line.partition(":") for line in read_head(client).split("\r\n")]
    key = next(value.strip() for name, _, value in lines if name.lower() == "sec-websocket-key")
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    right = base64.b64encode(digest).decode()
    client.sendall(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Accept: %s\r\n\r\n" % (accept or right)).encode())


HELLO = b'\x81\x2c{"op":10,"d":{"heartbeat_interval":41250}}  '
assert len(HELLO) == 2 + 0x2c


def frames(*parts):
    """Hello, then these bytes, once Identify has come; gives the close code that the client answers with."""
    def serve(client):
        upgrade(client)
        client.sendall(HELLO)
        client.recv(4096)
        for part in parts:
            client.sendall(part)
        answer = client.recv(4096)
        masked = answer[:2] + bytes(a ^ b for a, b in zip(answer[6:], answer[2:6] * 64))
        serve.codes.append(struct.unpack("!H", masked[2:4])[0] if len(masked) >= 4 and masked[0] == 0x88 else None)
    serve.codes = []
    return serve


def closes(url, reason, words, code=None, ca=os.path.join(CERTS, "ca.pem"), status=None, **env):
    """tail's first close line has this reason, and its sentence these words; it will try again."""
    with Tail(url, ca=ca, **env) as tail:
        line = tail.wait_for("close", PATIENCE * 2)
        expect(line, "no close line in", tail.lines, tail.said())
        expect(line["reason"] == reason, "reason is", line)
        expect(line["code"] == code, "code is", line)
        expect(status is None or line.get("status") == status, "status is", line)
        for word in words:
            expect(word.lower() in line["msg"].lower(), '"%s" is not in: %s' % (word, line["msg"]))
        expect(tail.wait_for("reconnect"), "no reconnect line")
        expect(TOKEN not in json.dumps(tail.lines) + tail.said(), "the token was shown")


@test
def an_unknown_host_is_named():
    closes("wss://no-such-host.invalid", "resolve", ["no-such-host.invalid"])


@test
def a_closed_port_is_named():
    port = free_port()
    closes("wss://localhost:%d" % port, "connect", ["localhost", str(port)])


@test
def bad_certificates_are_told_apart():
    for certificate, reason, words in (("expired", "tls_expired", ["expired"]),
                                       ("not-yet", "tls_not_yet", ["clock"]),
                                       ("wrong-host", "tls_name", ["localhost"]),
                                       ("unknown-ca", "tls_untrusted", ["trust"])):
        with RawServer(lambda client: client.recv(1), certificate) as server:
            closes(server.url, reason, words)


@test
def plain_http_where_tls_is_expected_is_said():
    def serve(client):
        client.recv(4096)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port")
    with RawServer(serve, certificate=None) as server:
        closes(server.url, "tls_protocol", ["TLS"])


@test
def http_errors_at_the_upgrade_carry_status_and_body():
    for status in (401, 404, 429, 503):
        body = "<html>told by the proxy %d</html>" % status
        text = "HTTP/1.1 %d Sorry\r\nContent-Length: %d\r\nRetry-After: 7\r\n\r\n%s" % (status, len(body), body)
        with RawServer(answers(text)) as server:
            closes(server.url, "http", [str(status), "told by the proxy"], status=status)


@test
def a_redirect_is_not_followed():
    redirect = "HTTP/1.1 302 Found\r\nLocation: wss://evil.example/\r\nContent-Length: 0\r\n\r\n"
    with RawServer(answers(redirect)) as server:
        closes(server.url, "http", ["302"], status=302)


@test
def a_wrong_accept_key_is_refused():
    with RawServer(lambda client: (upgrade(client, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), client.recv(1))) as server:
        with Tail(server.url) as tail:
            line = tail.wait_for("close")
            expect(line and "accept" in line["msg"].lower(), tail.lines)
            expect(not tail.of("open"), "it is not open")


@test
def broken_frames_and_payloads_end_the_connection_with_the_right_code():
    text = lambda payload: bytes([0x81, len(payload)]) + payload
    cases = (("a length above 2^63", b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff{\"op\":0,", 1002),
             ("a masked frame", b"\x81\x82\x01\x02\x03\x04zq", 1002),
             ("reserved bits", b"\xc1\x02{}", 1002),
             ("a reserved opcode", b"\x83\x02{}", 1002),
             ("a continuation of nothing", b"\x80\x02{}", 1002),
             ("a fragmented ping", b"\x09\x02hi", 1002),
             ("a close frame of one byte", b"\x88\x01\x03", 1002),
             ("text that is no UTF-8", text(b'{"op":0,"d":"\xc3("}'), 1007),
             ("a binary message", b"\x82\x09{\"op\":11}", 1003),
             ("no JSON", text(b"hello, world"), 4000),
             ("JSON that ends too early", text(b'{"op":0,"t":"X","s":1,"d":{"a":[1,2}'), 4000),
             ("a payload without op", text(b'{"t":null,"s":null,"d":{"op":7}}'), 4000))
    for name, part, code in cases:
        serve = frames(part)
        with RawServer(serve) as server, Tail(server.url) as tail:
            line = tail.wait_for("close")
            expect(line, name, "did not end the connection:", tail.lines)
            expect(line["reason"] == "protocol" and len(line["msg"]) > 20, name, line)
            until = time.monotonic() + 5
            while not serve.codes and time.monotonic() < until:
                time.sleep(0.01)
            expect(serve.codes[:1] == [code], name, "was answered with", serve.codes, "instead of", code)


@test
def a_frame_that_promises_more_than_comes_waits_without_eating_memory():
    lie = b"\x81\x7f\x3f" + b"\xff" * 7 + b'{"op":0,"t":"GUILD_CREATE","s":2,"d":{"name":"'
    with RawServer(frames(lie)) as server, Tail(server.url, "--for", "2") as tail:
        expect(tail.wait_for("identifying"), tail.lines)
        peak = tail.peak_kib()
        expect(peak is None or os.environ.get("WRAP") or peak < 400 * 1024, "peak memory is", peak, "KiB")
        expect(tail.wait() == 0, "exit code", tail.process.returncode, tail.said())


@test
def what_discord_adds_tomorrow_is_no_error():
    async def script(c):
        await c.hello()
        await c.expect(2)
        await c.ws.send(c.ready_text())
        await c.ws.send('{"op":99,"d":{"op":9,"d":false}}')
        await c.ws.send('{"d":{"t":"X","s":5,"op":9},"op":0,"s":2,"t":"SOMETHING_\\u004eEW","new":[{"d":1}]}')
        await c.ws.send('{"op":11}')
        await c.ws.send('{"t":"TYPING_START","s":9007199254740993,"op":0,"d":{}}')
        c.gateway.done.set()
        await c.take_close()

    with Gateway(script) as gateway, Tail(gateway.url, "--data") as tail:
        gateway.wait(tail)
        expect(tail.wait_for(lambda line: line.get("t") == "TYPING_START"), "the event behind did not arrive")
        got = [(line["t"], line["s"]) for line in tail.of("dispatch")]
        expect(got == [("READY", 1), ("SOMETHING_NEW", 2), ("TYPING_START", 9007199254740993)], got)
        expect(tail.of("dispatch")[1]["d"] == {"t": "X", "s": 5, "op": 9}, tail.of("dispatch")[1])
        expect(not tail.of("close"), tail.of("close"))


@test
def a_payload_above_the_limit_is_skipped_and_counted():
    async def script(c):
        await c.hello()
        if c.number == 1:
            await c.expect(2)
            await c.ws.send(c.ready_text())
            await c.dispatch("GUILD_CREATE", {"id": "5", "filler": "x" * 3000000})
            c.gateway.sent.pop()
            await c.messages(1)
            await c.ws.send(json.dumps({"d": {"filler": "y" * 100000}, "op": 0, "s": 4, "t": "GUILD_CREATE"}))
            c.gateway.seq = 4
            pong = await c.ws.ping()
            await asyncio.wait_for(pong, PATIENCE)
            c.cut()
        else:
            expect_resume(c, await c.expect(6), 4)
            await c.resumed()
            c.gateway.done.set()
            await c.take_close()

    with Gateway(script) as gateway, Tail(gateway.url, "--max-payload", "20000") as tail:
        gateway.wait(tail)
        expect(tail.wait_for("resumed"), "no RESUMED")
        skipped = [(line["s"], line["bytes"] > 90000) for line in tail.of("skipped")]
        expect(skipped == [(2, True), (4, True)], tail.of("skipped"))
        expect_whole(gateway, tail)


@test
def a_resume_url_of_another_host_is_not_followed():
    async def script(c):
        await c.hello()
        if c.number == 1:
            await c.expect(2)
            await c.ws.send(c.ready_text("wss://gateway.evil.example"))
            await c.messages(1)
            pong = await c.ws.ping()
            await asyncio.wait_for(pong, PATIENCE)
            c.cut()
        else:
            expect(c.path.startswith("/?"), c.path)
            d = await c.expect(6)
            expect(d["seq"] == 2 and d["session_id"] == SESSION_ID, d)
            await c.resumed()
            c.gateway.done.set()
            await c.take_close()

    with Gateway(script) as gateway, Tail(gateway.url) as tail:
        gateway.wait(tail)
        expect(tail.wait_for("resumed"), "no RESUMED")
        expect(all("evil" not in line["url"] for line in tail.of("connecting")), tail.of("connecting"))


if __name__ == "__main__":
    raise SystemExit(main("foreign_gateway_test"))
