"""The seeds of fuzz_client.c; make_corpus.py calls main()."""

ACK, BEAT, RECONNECT, INVALID_TRUE, INVALID_FALSE, HELLO, UNKNOWN, READY, READY_TOKEN, RESUMED, MESSAGE, NAME_TOKEN, \
    LIMITED, CHUNK, GUILD = range(15)


def usual(*words):
    return b"".join(bytes([2, word]) for word in words)


def raw(text):
    return bytes([0, len(text)]) + text


def text(words):
    return bytes([1, len(words)]) + words


def wait(exponent):
    return bytes([4, exponent])


def call(what, value=0):
    return bytes([5, what, value])


def wire(what, value=0):
    return bytes([6, what, value])


RESTART, HEAD = b"\x0d", b"\x00\x01"


def main(put):
    live = wait(12) + usual(READY, GUILD)
    put("client", "live", HEAD, live, usual(MESSAGE), wait(15), usual(ACK), wait(16))
    put("client", "resume", HEAD, live, wire(0), wait(12), usual(MESSAGE, RESUMED), wait(12))
    put("client", "reconnect", HEAD, live, usual(RECONNECT), wait(13), usual(INVALID_TRUE), wait(13))
    put("client", "invalid", HEAD, live, usual(INVALID_FALSE), wait(14), usual(READY))
    put("client", "restart", HEAD, live, usual(MESSAGE), RESTART, wait(12), usual(RESUMED))
    put("client", "restarts", HEAD, *[RESTART + wait(10)] * 6)
    put("client", "close-4004", HEAD, live, bytes([7, 20, 15, 164]), b"authentication f")
    put("client", "close-4009", HEAD, live, bytes([7, 0, 15, 169]), wait(14), usual(READY))
    put("client", "no-ack", b"\x00\x00", live, wait(21))
    put("client", "suspend", HEAD, live, b"\x0c\x80", wait(12))
    put("client", "token-sent-back", HEAD, wait(12), usual(READY_TOKEN, NAME_TOKEN, MESSAGE), RESTART, wait(14))
    put("client", "commands", HEAD, live, *[call(what, 5) for what in range(17)])
    put("client", "members", HEAD, live, call(2, 2), wait(10), usual(LIMITED), wait(12), call(3, 15), usual(CHUNK))
    put("client", "many-commands", HEAD, live, call(15, 100), wait(16), call(15, 100), wait(17))
    put("client", "large", b"\x04\x01", live, b"\x09\x0c", b"\x09\x12", usual(MESSAGE))
    put("client", "flood", b"\x00\x05", live, b"\x0a\x3f", b"\x0a\x3f", wait(12))
    put("client", "pings", HEAD, live, *[bytes([8, n]) for n in range(40)])
    put("client", "discover", b"\x02\x09", wait(12), usual(READY), b"\x12\x07", wait(14))
    put("client", "two-shards", b"\x10\x01", wait(13), usual(READY), b"\x12\x07", wait(14), call(10, 1), call(11, 1))
    put("client", "own-memory", b"\x24\x01", live, b"\x09\x0c", usual(MESSAGE))
    put("client", "stop", b"\x40\x01", live, wire(1, 1), call(15, 5))
    put("client", "refused", HEAD, wire(4, 7), wire(0), wait(18))
    put("client", "slow-wire", HEAD, wire(2, 1), wire(3, 1), live, wait(12))
    put("client", "gate", b"\x00\x11", wire(6, 9), wait(12), wire(6, 0), live)
    put("client", "no-random", HEAD, wire(5, 1), wire(0), wait(14))
    put("client", "broken-json", HEAD, live, text(b'{"op":0,"s":9,"t":"X","d":[1}'), wait(14))
    put("client", "raw-429", b"\x01\x01", raw(b"HTTP/1.1 429 X\r\nRetry-After: 9\r\n\r\n"), wire(0), wait(14))
    put("client", "raw-tls", b"\x01\x01", raw(b"\x15\x03\x03\x00\x02\x02\x28"), wait(14))
    put("client", "raw-then-right", b"\x01\x01", wire(7), b"\x0f", live)
    put("client", "discover-refused", b"\x03\x01", raw(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"), wait(12))
    info = b'{"url":"ws://127.0.0.1:7","shards":3,"session_start_limit":{"remaining":5,"max_concurrency":2}}'
    put("client", "raw-discover", b"\x03\x09", raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(info) + info),
        wait(12), wire(7), b"\x16\x07\x00", b"\x0f\x1f", usual(READY), wait(13))
