#!/usr/bin/python3
"""WebSocket: ws_echo against Debian's python3-websockets, and against peers on plain sockets that break RFC 6455 rule by rule."""
import asyncio
import base64
import os
import random
import socket
import sys
import threading

import websockets

from probes import (BINARY, CLOSE, PING, PONG, TEXT, Peer, Run, Server, accept_for, answer_101, close_frame, drain, frame,
                    read_head, server_tls)
from support import PATIENCE, expect, main, test

LINGER = 2          # seconds that ws_echo waits for the server to end TCP


def echo(url, **more):
    return Run("ws_echo", url, **more)


def meets(play, target="/"):
    """ws_echo against Peer(socket); play(peer) is the server's part. The run is over when this returns."""
    with Server(lambda client: play(Peer(client))) as server:
        return echo(server.at(target))


# ---- against websockets, a server that we did not write ---------------------------------------------------------------
class Websockets:
    """websockets.serve() with `script(connection)` in a thread of its own; what the script raises is raised by the `with`."""

    def __init__(self, script, tls=False, **options):
        self.script, self.tls, self.options, self.faults = script, tls, options, []
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()
        expect(self.started.wait(PATIENCE), "the server did not start")

    def run(self):
        asyncio.set_event_loop(self.loop)
        options = dict(max_size=None, ping_interval=None, ssl=server_tls() if self.tls else None)
        options.update(self.options)
        server = self.loop.run_until_complete(websockets.serve(self.serve, "127.0.0.1", 0, **options))
        self.port = server.sockets[0].getsockname()[1]
        self.started.set()
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(server.wait_closed())
        self.loop.close()

    async def serve(self, ws, *_):
        try:
            await asyncio.wait_for(self.script(ws), PATIENCE)
        except BaseException as fault:
            self.faults.append(fault)
            raise

    def at(self, target="/"):
        return "%s:%d%s" % ("wss://localhost" if self.tls else "ws://127.0.0.1", self.port, target)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self.faults and kind is None:
            raise self.faults[0]


def both(script, target="/", check=lambda run: run.is_good(), **options):
    """The same over plain TCP and over TLS."""
    for tls in (False, True):
        with Websockets(script, tls, **options) as server:
            check(echo(server.at(target)))


@test
def echo_returns_text_and_binary_as_they_came():
    async def script(ws):
        for message in ("hello", "", "\u00e4\u20ac\U0001f600 \0 end", b"", b"\x00\xff\x80", "x" * 125, "x" * 126, b"y" * 65535, b"y" * 65536):
            await ws.send(message)
            got = await ws.recv()
            expect(type(got) is type(message) and got == message, repr(message[:40]), repr(got[:40]))
    both(script)


@test
def echo_keeps_the_order_of_many_messages():
    async def script(ws):
        sent = [("text %d" % index if index % 3 else b"binary %d" % index) for index in range(2000)]
        sender = asyncio.ensure_future(send_all(ws, sent))
        got = [await ws.recv() for _ in sent]
        await sender
        expect(got == sent, "order or content changed")

    async def send_all(ws, messages):
        for message in messages:
            await ws.send(message)
    both(script, max_queue=None)


@test
def echo_returns_16_mib():
    big = random.Random(1).randbytes(16 << 20)
    text = "0123456789abcde\u20ac" * (1 << 20)

    async def script(ws):
        await ws.send(big)
        expect(await ws.recv() == big, "binary changed")
        await ws.send(text[:(16 << 20) // 18])
        expect(await ws.recv() == text[:(16 << 20) // 18], "text changed")
    both(script)


@test
def echo_joins_fragments():
    async def script(ws):
        await ws.send(["one ", "", "two ", "\u20ac three"])
        expect(await ws.recv() == "one two \u20ac three")
        await ws.send([b"\xff", b"", b"\x00"])
        expect(await ws.recv() == b"\xff\x00")
    both(script)


@test
def echo_answers_pings():
    async def script(ws):
        for payload in (b"", b"ping", os.urandom(125)):
            await asyncio.wait_for(await ws.ping(payload), 5)
        await ws.pong(b"nobody asked")
        await ws.send("still here")
        expect(await ws.recv() == "still here")
    both(script)


@test
def echo_returns_the_close_code():
    async def script(ws):
        code = int(ws.path.rsplit("=", 1)[1])
        await ws.close(code, "a reason \u20ac")
        expect(ws.close_rcvd.code == code and ws.close_rcvd_then_sent is False, ws.close_rcvd, ws.close_rcvd_then_sent)
    for code in (1000, 1001, 1003, 1008, 1011, 3000, 4000, 4004, 4999):
        with Websockets(script) as server:
            echo(server.at("/?code=%d" % code)).is_good()


@test
def echo_offers_no_compression_and_no_subprotocol():
    async def script(ws):
        expect("Sec-WebSocket-Extensions" not in ws.request_headers, ws.request_headers)
        expect("Sec-WebSocket-Protocol" not in ws.request_headers, ws.request_headers)
        expect(ws.extensions == [] and ws.subprotocol is None)
        await ws.send("plain")
        expect(await ws.recv() == "plain")
    both(script, compression="deflate", subprotocols=None)


@test
def echo_takes_any_path_and_query():
    paths = []

    async def script(ws):
        paths.append(ws.path)
    wanted = ["/runCase?case=1&agent=x", "/a/b%20c/?q=%E2%82%AC&r=/?", "/?", "/" + "p" * 500]
    with Websockets(script) as server:
        for path in wanted + ["", "?only=query"]:
            echo(server.at(path)).is_good()
    expect(paths == wanted + ["/", "/?only=query"], paths)


@test
def echo_outlives_an_idle_connection():
    async def script(ws):
        await ws.send("before")
        await ws.recv()
        await asyncio.sleep(1.2)
        await ws.send("after")
        expect(await ws.recv() == "after")
    both(script)


@test
def echo_reaches_ipv6():
    async def script(ws):
        await ws.send("six")
        expect(await ws.recv() == "six")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return              # this machine has none

    async def serve():
        done = asyncio.get_running_loop().create_future()

        async def handler(ws, *_):
            try:
                await script(ws)
                done.set_result(None)
            except Exception as fault:
                done.set_exception(fault)
        async with websockets.serve(handler, "::1", 0) as server:
            url = "ws://[::1]:%d/" % server.sockets[0].getsockname()[1]
            (await asyncio.get_running_loop().run_in_executor(None, echo, url)).is_good()
            await done
    asyncio.run(serve())


# ---- the upgrade: RFC 6455 section 4 ------------------------------------------------------------------------------------
@test
def rfc6455_4_1_the_request_is_as_it_must_be():
    keys = set()

    def play(peer):
        expect(peer.request == "GET /chat?room=1 HTTP/1.1", peer.request)
        expect(peer.headers["host"] == "127.0.0.1:%d" % peer.client.getsockname()[1], peer.headers)
        expect(peer.headers["upgrade"].lower() == "websocket" and peer.headers["connection"].lower() == "upgrade", peer.headers)
        expect(peer.headers["sec-websocket-version"] == "13", peer.headers)
        expect(len(base64.b64decode(peer.key, validate=True)) == 16, peer.key)
        expect("sec-websocket-extensions" not in peer.headers and "authorization" not in peer.headers, peer.headers)
        keys.add(peer.key)
        peer.send(frame(CLOSE))
        peer.close_code()
        peer.ends()
    for _ in range(3):
        meets(play, "/chat?room=1").is_good()
    expect(len(keys) == 3, "a key came twice", keys)


def upgrade_answer(answer, *words, end=True):
    """The answer to the upgrade; `answer` may be a function of the key."""
    def play(client):
        key = read_head(client)[1]["sec-websocket-key"]
        client.sendall(answer(key) if callable(answer) else answer)
        if end:
            client.shutdown(socket.SHUT_WR)
        drain(client)
    with Server(play) as server:
        run = echo(server.at()).fails(*words)
        expect(server.count == 1, "connections:", server.count)
        return run


@test
def rfc6455_4_1_a_wrong_accept_key_is_refused():
    for value in ("", "x3JJHMbDL1EzLkh9GBhXDw==", accept_for("another key"), "\u00e4"):
        upgrade_answer(lambda key: ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                    "Sec-WebSocket-Accept: %s\r\n\r\n" % value).encode("latin-1"), "Sec-WebSocket-Accept", end=False)
    upgrade_answer(lambda key: ("HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Accept: %s\r\n\r\n" % accept_for(key).swapcase()).encode(), "Sec-WebSocket-Accept")


@test
def rfc6455_4_1_missing_or_wrong_headers_are_refused():
    def but(name, value=None):
        def answer(key):
            lines = [line for line in answer_101(key).decode().split("\r\n") if not line.startswith(name + ":")]
            if value is not None:
                lines.insert(1, name + ": " + value)
            return "\r\n".join(lines).encode()
        return answer
    upgrade_answer(but("Upgrade"), "Upgrade")
    upgrade_answer(but("Upgrade", "h2c"), "Upgrade")
    upgrade_answer(but("Connection"), "Connection")
    upgrade_answer(but("Connection", "close"), "Connection")
    upgrade_answer(but("Sec-WebSocket-Accept"), "Sec-WebSocket-Accept")


@test
def rfc6455_4_1_what_was_not_offered_is_refused():
    upgrade_answer(lambda key: answer_101(key, "Sec-WebSocket-Extensions: permessage-deflate"), "extension")
    upgrade_answer(lambda key: answer_101(key, "Sec-WebSocket-Protocol: chat"), "subprotocol")


@test
def rfc6455_4_1_headers_are_taken_in_any_case_and_order():
    def play(client):
        key = read_head(client)[1]["sec-websocket-key"]
        client.sendall(("HTTP/1.1 101\r\nsec-websocket-accept:%s\r\nX-Other: 1\r\nCONNECTION: keep-alive, uPgRaDe\r\n"
                        "upgrade: WebSocket\r\n\r\n" % accept_for(key)).encode() + frame(CLOSE))
        drain(client)
    with Server(play) as server:
        echo(server.at()).is_good()


@test
def rfc6455_4_1_an_interim_answer_is_passed_over():
    def play(client):
        key = read_head(client)[1]["sec-websocket-key"]
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer_101(key) + frame(CLOSE))
        drain(client)
    with Server(play) as server:
        echo(server.at()).is_good()


@test
def upgrade_one_byte_at_a_time_and_with_a_message_behind_it():
    def play(client):
        key = read_head(client)[1]["sec-websocket-key"]
        for byte in answer_101(key) + frame(TEXT, b"at once"):
            client.sendall(bytes([byte]))
        client.sendall(close_frame(1000))
        got = drain(client)
        expect(len(got) == 6 + 7 + 6 + 2, got)
    with Server(play) as server:
        echo(server.at()).is_good()


@test
def upgrade_refusals_are_told_with_status_and_body():
    for status, words in (("200 OK", "200"), ("400 Bad Request", "400"), ("401 Unauthorized", "401"), ("403 Forbidden", "403"),
                          ("404 Not Found", "404"), ("429 Too Many Requests", "429"), ("500 Oops", "500"),
                          ("503 Service Unavailable", "503")):
        body = b'{"message": "the body says why"}'
        upgrade_answer(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body), words, "the body says why")
    upgrade_answer(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlater\r\n0\r\n\r\n", "503", "later")
    upgrade_answer(b"HTTP/1.1 502 No\r\n\r\nuntil the end", "502", "until the end")


@test
def upgrade_redirects_are_told_and_not_followed():
    with Server(lambda client: expect(False, "the redirect was followed")) as other:
        upgrade_answer(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other.port,
                       "302", "127.0.0.1:%d" % other.port, "not followed")
        expect(other.count == 0, "the redirect was followed")


@test
def upgrade_garbage_is_told():
    for answer in (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/2 101\r\n\r\n",
                   b"HTTP/1.1 1x1 ?\r\n\r\n", b"HTTP/1.1 101 OK\nUpgrade: websocket\n\n", b"HTTP/1.1 101 OK\r\nno colon\r\n\r\n",
                   b"HTTP/1.1 101 OK\r\nA: " + b"x" * 9000 + b"\r\n\r\n", b"HTTP/1.1 101 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
                   b"HTTP/1.1 404 No\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 404 No\r\nContent-Length: 1000000000000000000\r\n\r\n"):
        run = upgrade_answer(answer, "HTTP", end=False)
        expect(len(run.err) < 600, "a long sentence", run.err)


@test
def upgrade_an_end_is_told():
    upgrade_answer(b"", "127.0.0.1", "closed")
    upgrade_answer(b"HTTP/1.1 101 Switching Prot", "closed")


# ---- messages and control frames: RFC 6455 sections 5.4 to 5.6 ----------------------------------------------------------
def finish(peer):
    """The server ends a conversation in order."""
    peer.send(close_frame(1000))
    expect(peer.close_code() == 1000)
    peer.ends()


@test
def rfc6455_5_2_lengths_at_every_edge():
    def play(peer):
        for size in (0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 1000000):
            payload = bytes(at * 7 & 255 for at in range(size % 251)) * (size // (size % 251) + 1) if size % 251 else bytes(size)
            payload = payload[:size]
            peer.send(frame(BINARY, payload))
            peer.expects(BINARY, payload)
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_3_masks_are_fresh_for_each_frame():
    def play(peer):
        for _ in range(200):
            peer.send(frame(TEXT, b"same"))
            peer.expects(TEXT, b"same")
        expect(len(peer.masks) > 195, "masks repeat:", len(peer.masks))
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_4_fragments_make_one_message():
    def play(peer):
        peer.send(frame(TEXT, b"Hel", fin=0), frame(0, b"", fin=0), frame(0, b"lo", fin=0), frame(0))
        peer.expects(TEXT, b"Hello")
        peer.send(frame(BINARY, b"", fin=0), frame(0, b"", fin=0), frame(0))
        peer.expects(BINARY, b"")
        peer.send(frame(TEXT, b"H", fin=0), *[frame(0, b"x", fin=0)] * 5000, frame(0, b"!"))
        peer.expects(TEXT, b"H" + b"x" * 5000 + b"!")
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_4_control_frames_between_fragments_are_answered_at_once():
    def play(peer):
        peer.send(frame(TEXT, b"one ", fin=0), frame(PING, b"in between"))
        peer.expects(PONG, b"in between")           # before the message has ended
        peer.send(frame(PONG, b"nobody asked"), frame(0, b"two ", fin=0), frame(PING))
        peer.expects(PONG, b"")
        peer.send(frame(0, b"three"))
        peer.expects(TEXT, b"one two three")
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_5_2_every_ping_is_answered_with_its_payload():
    def play(peer):
        payloads = [bytes([size]) * size for size in range(126)]
        peer.send(*[frame(PING, payload) for payload in payloads])
        for payload in payloads:
            peer.expects(PONG, payload)
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_5_3_unasked_pongs_are_not_answered():
    def play(peer):
        peer.send(*[frame(PONG, b"x" * size) for size in range(126)])
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_frames_one_byte_at_a_time():
    def play(peer):
        stream = (frame(TEXT, "\u20ac".encode(), fin=0) + frame(PING, b"p") + frame(0, b"x" * 130) + frame(BINARY, b"y" * 300) +
                  frame(BINARY, b"z" * 66000)[:20])
        for byte in stream:
            peer.send(bytes([byte]))
        peer.send(frame(BINARY, b"z" * 66000)[20:])
        peer.expects(PONG, b"p")
        peer.expects(TEXT, "\u20ac".encode() + b"x" * 130)
        peer.expects(BINARY, b"y" * 300)
        peer.expects(BINARY, b"z" * 66000)
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_5_6_text_may_be_cut_inside_a_character():
    def play(peer):
        text = "\u00e4\u20ac\U0001f600\ud7ff\ue000\U0010ffff".encode()
        peer.send(*[frame(TEXT if at == 0 else 0, text[at:at + 1], fin=at == len(text) - 1) for at in range(len(text))])
        peer.expects(TEXT, text)
        finish(peer)
    meets(play).is_good()


@test
def echo_serves_a_peer_that_first_sends_all():
    def play(peer):
        payload = bytes(1 << 20)
        for _ in range(20):
            peer.send(frame(BINARY, payload))
        for _ in range(20):
            peer.expects(BINARY, payload)
        finish(peer)
    meets(play).is_good()


@test
def echo_refuses_a_message_that_is_too_big():
    def play(peer):
        try:
            peer.send(frame(BINARY, bytes(33 << 20)))
        except OSError:
            pass
        expect(peer.close_code() == 1009)
        peer.ends()
    meets(play).fails("32 MiB")


# ---- closing: RFC 6455 sections 5.5.1 and 7 ---------------------------------------------------------------------------------
@test
def rfc6455_5_5_1_a_close_is_answered_with_its_code():
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        def play(peer):
            peer.send(close_frame(code, b"" if code & 1 else "\u20ac".encode() * 41))
            expect(peer.close_code() == code)
            peer.ends()
        meets(play).is_good()


@test
def rfc6455_5_5_1_an_empty_close_is_answered():
    def play(peer):
        peer.send(frame(CLOSE))
        expect(peer.close_code() in (None, 1000))
        peer.ends()
    meets(play).is_good()


@test
def rfc6455_5_5_1_a_close_between_fragments_ends_it():
    def play(peer):
        peer.send(frame(TEXT, b"half a mess", fin=0), close_frame(1000))
        expect(peer.close_code() == 1000)
        peer.ends()
    meets(play).is_good()


@test
def rfc6455_5_5_1_what_follows_a_close_is_not_heard():
    def play(peer):
        peer.send(close_frame(1000), frame(PING, b"?"), frame(TEXT, b"hello?"), close_frame(1001), b"\xff" * 100)
        expect(peer.close_code() == 1000)
        peer.ends()
    meets(play).is_good()


@test
def rfc6455_5_5_1_what_came_before_a_close_is_answered_first():
    def play(peer):
        peer.send(frame(TEXT, b"last words"), frame(PING, b"p"), close_frame(1000))
        peer.expects(TEXT, b"last words")
        peer.expects(PONG, b"p")
        expect(peer.close_code() == 1000)
        peer.ends()
    meets(play).is_good()


@test
def rfc6455_7_1_1_the_server_ends_tcp_first_but_is_not_waited_for_forever():
    def play(peer):
        peer.send(close_frame(1000))
        expect(peer.close_code() == 1000)
        peer.client.settimeout(0.5)
        try:
            expect(False, "ended first", peer.client.recv(1))
        except socket.timeout:
            pass
        expect(drain(peer.client, LINGER + 3) == b"", "did not end")
    run = meets(play).is_good()
    expect(run.seconds < LINGER + 2, "took", run.seconds)


@test
def rfc6455_7_1_5_an_end_without_a_close_is_no_clean_end():
    def play(peer):
        peer.send(frame(TEXT, b"hello"))
        peer.expects(TEXT, b"hello")
        peer.client.shutdown(socket.SHUT_WR)
        expect(drain(peer.client) == b"")
    meets(play).fails("127.0.0.1", "closed")


@test
def rfc6455_7_1_7_a_close_is_heard_although_the_server_has_gone():
    def play(peer):
        peer.send(frame(TEXT, b"answer this"), close_frame(1001))
        peer.client.close()
    meets(play).is_good()


# ---- what a server must not send; each with the code that we must close with --------------------------------------------
def broken(*parts, code, words=()):
    """Sends the parts and expects Close with that code, that nothing else is said, and that the end is left to us."""
    def play(peer):
        peer.send(*parts)
        got = peer.close_code()
        expect(got == code, "expected close code", code, "and got", got)
        peer.client.settimeout(0.05)
        try:
            expect(False, "the client ended TCP first", peer.client.recv(10))
        except socket.timeout:
            pass
        peer.client.settimeout(PATIENCE)
        peer.ends()
    run = meets(play).fails(*words)
    expect(run.seconds < LINGER, "took", run.seconds)


@test
def rfc6455_5_1_masked_frames_of_a_server_are_refused():
    broken(frame(TEXT, b"masked", mask=b"abcd"), code=1002, words=("mask",))
    broken(frame(TEXT, b"masked", mask=b"\0\0\0\0"), code=1002, words=("mask",))
    broken(frame(PING, b"", mask=b"abcd"), code=1002, words=("mask",))


@test
def rfc6455_5_2_reserved_bits_are_refused():
    for rsv in range(1, 8):
        broken(frame(TEXT, b"x", rsv=rsv), code=1002, words=("reserved bit",))
    broken(frame(PING, b"x", rsv=4), code=1002)
    broken(frame(CLOSE, b"", rsv=4), code=1002)
    broken(frame(TEXT, b"x", fin=0), frame(0, b"x", rsv=1), code=1002)


@test
def rfc6455_5_2_reserved_opcodes_are_refused():
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        broken(frame(opcode, b"x"), code=1002, words=("opcode",))
        broken(frame(opcode), code=1002, words=("opcode",))


@test
def rfc6455_5_2_lengths_in_a_longer_form_are_refused():
    for size, form in ((0, 16), (125, 16), (0, 64), (125, 64), (126, 64), (65535, 64)):
        broken(frame(BINARY, bytes(size), form=form), code=1002, words=("length",))


@test
def rfc6455_5_2_lengths_of_2_63_are_refused():
    broken(frame(BINARY, b"", length=1 << 63), code=1002, words=("length",))
    broken(frame(BINARY, b"", length=(1 << 64) - 1), code=1002, words=("length",))


@test
def rfc6455_5_2_lengths_that_lie_are_told():
    for part in (frame(TEXT, b"short", length=1000), frame(BINARY, b"x" * 3000, length=(1 << 63) - 1), b"\x81", b"\x81\x7e\x01",
                 frame(PING, b"", length=5)):
        def play(peer):
            peer.send(part)
            peer.client.shutdown(socket.SHUT_WR)
            drain(peer.client)
        meets(play).fails("closed")


@test
def rfc6455_5_4_continuations_of_nothing_are_refused():
    broken(frame(0, b"x"), code=1002, words=("continuation",))
    broken(frame(0, b"x", fin=0), code=1002, words=("continuation",))


@test
def rfc6455_5_4_a_continuation_after_the_end_is_refused():
    def play(peer):
        peer.send(frame(TEXT, b"a", fin=0), frame(0, b"b"), frame(0, b"c"))
        peer.expects(TEXT, b"ab")
        expect(peer.close_code() == 1002)
        peer.ends()
    meets(play).fails("continuation")


@test
def rfc6455_5_4_a_message_inside_a_message_is_refused():
    broken(frame(TEXT, b"a", fin=0), frame(TEXT, b"b"), code=1002, words=("inside",))
    broken(frame(TEXT, b"a", fin=0), frame(BINARY, b"b", fin=0), code=1002, words=("inside",))
    broken(frame(BINARY, b"", fin=0), frame(TEXT, b""), code=1002, words=("inside",))


@test
def rfc6455_5_5_control_frames_in_fragments_are_refused():
    for opcode in (CLOSE, PING, PONG):
        broken(frame(opcode, b"", fin=0), code=1002, words=("fragments",))


@test
def rfc6455_5_5_control_frames_above_125_bytes_are_refused():
    for opcode in (CLOSE, PING, PONG):
        broken(frame(opcode, b"\x03\xe8" + b"x" * 124), code=1002, words=("125",))
        broken(frame(opcode, b"\x03\xe8" + b"x" * 66000)[:100], code=1002, words=("125",))


@test
def rfc6455_5_5_1_half_a_close_code_is_refused():
    broken(frame(CLOSE, b"\x03"), code=1002, words=("code",))


@test
def rfc6455_7_4_close_codes_that_may_not_be_sent_are_refused():
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        broken(close_frame(code), code=1002, words=("close code",))


@test
def rfc6455_5_5_1_close_reasons_must_be_utf_8():
    broken(close_frame(1000, b"\xff"), code=1007, words=("UTF-8",))
    broken(close_frame(1000, "\u20ac".encode()[:2]), code=1007, words=("UTF-8",))
    broken(close_frame(1000, b"ok \xed\xa0\x80"), code=1007, words=("UTF-8",))


BAD_TEXT = (b"\xff", b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf",
            b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xfe", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"a\xe2\x82b")


@test
def rfc6455_8_1_text_must_be_utf_8():
    for text in BAD_TEXT:
        broken(frame(TEXT, text), code=1007, words=("UTF-8",))
    for cut in ("\u00e4".encode()[:1], "\u20ac".encode()[:2], "\U0001f600".encode()[:3]):
        broken(frame(TEXT, b"x" + cut), code=1007, words=("UTF-8",))


@test
def rfc6455_8_1_text_is_checked_across_fragments_and_at_once():
    broken(frame(TEXT, b"\xe2", fin=0), frame(0, b"\x82", fin=0), frame(0, b"x", fin=0), code=1007, words=("UTF-8",))
    broken(frame(TEXT, b"\xf4", fin=0), frame(0, b"\x90", fin=0), code=1007, words=("UTF-8",))
    broken(frame(TEXT, b"bad \xff ...", length=60000, form=16), code=1007, words=("UTF-8",))    # the frame never ends
    broken(frame(TEXT, b"\xe2\x82", fin=0), frame(0, b""), code=1007, words=("UTF-8",))


@test
def rfc6455_8_1_binary_may_be_anything():
    def play(peer):
        for text in BAD_TEXT:
            peer.send(frame(BINARY, text))
            peer.expects(BINARY, text)
        finish(peer)
    meets(play).is_good()


@test
def rfc6455_7_1_7_what_came_before_a_fault_is_answered_first():
    def play(peer):
        peer.send(frame(TEXT, b"good"), frame(PING, b"p"), frame(3, b"bad"), frame(TEXT, b"after"), frame(PING, b"q"))
        peer.expects(TEXT, b"good")
        peer.expects(PONG, b"p")
        expect(peer.close_code() == 1002)
        peer.ends()
    meets(play).fails("opcode")


@test
def rfc6455_7_1_7_after_a_fault_nobody_is_waited_for_forever():
    def play(peer):
        peer.send(frame(3))
        expect(peer.close_code() == 1002)
        expect(drain(peer.client, LINGER + 3) == b"", "did not end")
    run = meets(play).fails("opcode")
    expect(run.seconds < LINGER + 2, "took", run.seconds)


@test
def ws_garbage_of_all_kinds_ends_it_with_a_sentence():
    chance = random.Random(6455)
    for _ in range(30):
        noise = chance.randbytes(chance.choice((1, 2, 3, 10, 100, 5000)))

        def play(peer):
            try:
                peer.send(noise)
                peer.client.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            drain(peer.client)
        run = meets(play)
        expect(run.code in (0, 1) and bool(run.err) == bool(run.code), noise[:20], run.code, run.err)


# ---- how it is used -------------------------------------------------------------------------------------------------------
@test
def ws_echo_says_what_is_wrong_with_a_url():
    for url, word in (("", "scheme"), ("localhost", "scheme"), ("http://localhost/", "ws://localhost"), ("ws://gateway.example/", "clear text"),
                      ("wss://u:p@localhost/", "user name"), ("ws://localhost:0/", "port"), ("ws://localhost/#x", "fragment"),
                      ("ws://local host/", "space"), ("ws://300.1.1.1/", "IPv4")):
        echo(url).fails(word)
    Run("ws_echo").fails("URL")


@test
def ws_echo_says_why_it_cannot_connect():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        echo("ws://127.0.0.1:%d/" % held.getsockname()[1]).fails("127.0.0.1", "refused")
    with Websockets(lambda ws: None, tls=True) as server:
        echo(server.at(), ca="/nowhere.pem").fails("/nowhere.pem")
        echo(server.at().replace("wss://localhost", "ws://127.0.0.1")).fails("127.0.0.1")


if __name__ == "__main__":
    sys.exit(main("probes_ws_test"))
