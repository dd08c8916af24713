"""What the tests of ws_echo, tls_probe and http_probe share: runs of a program, and servers on plain sockets that play any peer.

Every server listens on a free loopback port and ends with its test."""
import base64
import hashlib
import json
import os
import select
import shlex
import socket
import ssl
import struct
import subprocess
import threading
import time

from support import BUILD, CERTS, PATIENCE, TOKEN, expect, overheard

CA = os.path.join(CERTS, "ca.pem")
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Run:
    """One run of a program, to its end. `last` is its last line on stdout, read as JSON."""

    def __init__(self, program, *arguments, ca=CA, seconds=PATIENCE, **more):
        env = {name: value for name, value in os.environ.items() if not name.startswith("GW_") and
               name not in ("DISCORD_TOKEN", "SSL_CERT_FILE")}
        if ca:
            env["GW_CA_FILE"] = ca
        env.update({name: str(value) for name, value in more.items()})
        argv = shlex.split(os.environ.get("WRAP") or "") + [os.path.join(BUILD, program)] + list(arguments)
        started = time.monotonic()
        try:
            done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  timeout=seconds)
        except subprocess.TimeoutExpired:
            expect(False, program, "did not end within %d s" % seconds)
        self.seconds = time.monotonic() - started
        overheard.learn(env.get("DISCORD_TOKEN", ""))
        overheard.hear(program + " on stdout", done.stdout)
        overheard.hear(program + " on stderr", done.stderr)
        self.code = done.returncode
        self.out = done.stdout.decode("utf-8", "strict")
        self.err = done.stderr.decode("utf-8", "replace")
        lines = self.out.splitlines()
        self.last = json.loads(lines[-1]) if lines else {}

    def is_class(self, name, *words):
        """Exit code 1, this class, and a sentence that holds these words."""
        expect(self.code == 1 and set(self.last) == {"class", "msg"}, "exit", self.code, self.out, self.err)
        expect(self.last["class"] == name, "expected", name, "and got", self.last)
        for word in words:
            expect(word in self.last["msg"], "no %r in" % word, self.last["msg"])
        return self

    def fails(self, *words):
        """Exit code 1, and a sentence on stderr that holds these words."""
        expect(self.code == 1, "exit", self.code, self.out, self.err)
        for word in words:
            expect(word in self.err, "no %r in" % word, self.err)
        return self

    def is_good(self):
        expect(self.code == 0, "exit", self.code, self.out, self.err)
        expect(not self.err, self.err)
        return self

    def is_misuse(self, *words):
        expect(self.code == 2 and not self.out, "exit", self.code, self.out, self.err)
        for word in words:
            expect(word in self.err, "no %r in" % word, self.err)
        return self


class Server:
    """Runs `play(socket)` in a thread for each client that connects; what it raises is raised by the end of the `with`."""

    def __init__(self, play):
        self.play, self.faults, self.count = play, [], 0
        self.ended = threading.Event()
        self.threads = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.keeper = threading.Thread(target=self.accept, daemon=True)
        self.keeper.start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            self.count += 1
            client.settimeout(PATIENCE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self.serve, args=(client,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, client):
        try:
            self.play(client)
        except Exception as fault:
            self.faults.append(fault)
        finally:
            try:
                client.close()
            except OSError:
                pass

    def at(self, target="", scheme="ws", host="127.0.0.1"):
        return "%s://%s:%d%s" % (scheme, host, self.port, target)

    def __enter__(self):
        return self

    def __exit__(self, kind, fault, trace):
        self.ended.set()                    # those who play dead wake up
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(PATIENCE)
        if self.faults and kind is None:
            raise self.faults[0]


def read_head(client):
    """A request up to its empty line: (request line, {name in lower case: value})."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(65536)
        expect(part, "the client ended inside its request", head)
        head += part
    expect(head.endswith(b"\r\n\r\n"), "bytes behind the request", head)
    lines = head.decode("ascii").split("\r\n")[:-2]
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        expect(name.lower() not in headers, "twice:", name)
        headers[name.lower()] = value.strip()
    return lines[0], headers


def drain(client, seconds=PATIENCE):
    """Reads until the client ends TCP; gives what it sent. None: it did not end, or by a reset."""
    got = b""
    client.settimeout(seconds)
    try:
        while True:
            part = client.recv(65536)
            if not part:
                return got
            got += part
    except OSError:
        return None


def accept_for(key):
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def answer_101(key, *more):
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
             "Sec-WebSocket-Accept: " + accept_for(key)) + more
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode, payload=b"", fin=1, rsv=0, mask=None, length=None, form=None):
    """A frame, or what only looks like one. `length`: what the header says; `form`: 7, 16 or 64 bits of it."""
    length = len(payload) if length is None else length
    form = form or (7 if length < 126 else 16 if length < 65536 else 64)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    marked = 128 if mask else 0
    head += {7: lambda: bytes([marked | length]), 16: lambda: struct.pack(">BH", marked | 126, length),
             64: lambda: struct.pack(">BQ", marked | 127, length)}[form]()
    if mask:
        head += mask
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + payload


def close_frame(code, reason=b""):
    return frame(8, struct.pack(">H", code) + reason)


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Peer:
    """The server's side of a WebSocket on a plain socket. It reads like a pedant: RFC 6455 section 5."""

    def __init__(self, client, upgrade=True):
        self.client, self.rest, self.masks = client, b"", set()
        self.request, self.headers = read_head(client)
        self.key = self.headers.get("sec-websocket-key", "")
        if upgrade:
            client.sendall(answer_101(self.key))

    def send(self, *parts):
        self.client.sendall(b"".join(parts))

    def take(self, count):
        while len(self.rest) < count:
            part = self.client.recv(1 << 20)
            expect(part, "the client ended inside a frame, with", self.rest[:40])
            self.rest += part
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def frame(self):
        """The next frame of the client: (opcode, payload)."""
        first, second = self.take(2)
        expect(first & 0x80 and not first & 0x70, "fin not set, or a reserved bit is: %#x" % first)
        expect(second & 0x80, "a client must mask")
        length = second & 0x7f
        if length == 126:
            length = struct.unpack(">H", self.take(2))[0]
            expect(length > 125, "length not in its shortest form")
        elif length == 127:
            length = struct.unpack(">Q", self.take(8))[0]
            expect(65535 < length < 1 << 63, "length not in its shortest form")
        opcode = first & 15
        expect(opcode in (TEXT, BINARY, CLOSE, PING, PONG) and (opcode < 8 or length <= 125), "opcode", opcode, "length", length)
        mask = self.take(4)
        self.masks.add(mask)
        payload = self.take(length)
        key = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
        return opcode, (int.from_bytes(payload, "little") ^ key).to_bytes(length, "little")

    def expects(self, opcode, payload):
        got = self.frame()
        expect(got == (opcode, payload), "expected", (opcode, payload[:80]), "and got", got[0], got[1][:80])

    def close_code(self):
        """The client's Close, which must be its next frame, and its code; None: an empty one."""
        opcode, payload = self.frame()
        expect(opcode == CLOSE, "expected Close and got", opcode, payload[:80])
        expect(len(payload) != 1, "half a code")
        payload[2:].decode("utf-8")
        return struct.unpack(">H", payload[:2])[0] if payload else None

    def ends(self):
        """We end TCP first, as a server does; then the client must, and without a word or a reset."""
        self.client.shutdown(socket.SHUT_WR)
        left = drain(self.client)
        expect(left == b"" and not self.rest, "after its Close the client sent", self.rest, left)


def server_tls(certificate="server", key="server"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(CERTS, certificate + ".pem"), os.path.join(CERTS, key + ".key"))
    return context


def relay(client, port, on_answer=lambda bytes, sent: bytes, on_request=lambda bytes, sent: bytes):
    """Between a client and 127.0.0.1:port. Each hook gets a piece and how many bytes went before it; it gives what goes on
    in its place, which may be a list; None in it ends the connection both ways."""
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        counts = {client: 0, server: 0}
        while True:
            for source in select.select([client, server], [], [], PATIENCE)[0] or [None]:
                if source is None:
                    return
                try:
                    piece = source.recv(65536)
                except OSError:
                    return
                if not piece:
                    return
                changed = (on_request if source is client else on_answer)(piece, counts[source])
                counts[source] += len(piece)
                try:
                    for part in changed if isinstance(changed, list) else [changed]:
                        if part is None:
                            return
                        (server if source is client else client).sendall(part)
                except OSError:
                    return


def one_byte_each(piece, sent):
    return [piece[at:at + 1] for at in range(len(piece))]
