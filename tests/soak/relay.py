#!/usr/bin/python3
"""The bad line between the two namespaces of the soak: an IP relay between two TUN devices, so that what it loses,
doubles, delays and reorders are packets under the kernels' TCP; without /dev/net/tun (--proxy) a TCP proxy, which
delays, slows down, blacks out and forgets flows.

  relay.py CLIENT_NAMESPACE GATEWAY_NAMESPACE SEED [--proxy]

Orders come as JSON lines on standard input: {"weather":{...}}, {"dark":"up"|"down"|"both","seconds":N},
{"kill_flows":N,"way":...}. A line of counts goes out each second, and at the end; the end is that of standard input."""
import collections
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

CLIENT, GATEWAY, PORT = "10.77.0.1", "10.77.0.2", 443
UP, DOWN = 0, 1                         # from the client to the gateway, and back
WAYS = {"up": (UP,), "down": (DOWN,), "both": (UP, DOWN)}
CALM = {"delay_ms": 5, "jitter_ms": 1, "loss": 0.0, "double": 0.0, "reorder": 0.0, "bytes_per_s": 0, "corrupt": 0.0}
QUEUE_SECONDS = 0.5                     # what waits longer at a rate limit is dropped
libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace):
    fd = os.open("/run/netns/" + namespace, os.O_RDONLY)
    if libc.setns(fd, 0x40000000):      # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns " + namespace)
    os.close(fd)


def open_tun(namespace):
    """The device belongs to the namespace in which it is made, its file to us."""
    enter(namespace)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"line", 0x1001))    # TUNSETIFF: IFF_TUN | IFF_NO_PI
    return fd


class Line:
    """What both kinds of relay share: weather, darkness, orders, counts."""

    def __init__(self, seed):
        self.rng, self.weather, self.counts = random.Random(seed), dict(CALM), collections.Counter()
        self.dark_until, self.input, self.over, self.said_at = [0, 0], b"", False, 0

    def dark(self, way, now):
        return now < self.dark_until[way]

    def read_orders(self):
        got = os.read(0, 65536)
        self.over = not got
        *lines, self.input = (self.input + got).split(b"\n")
        for text in lines:
            order = json.loads(text)
            if "weather" in order:
                self.weather = dict(CALM, **order["weather"])
            if "dark" in order:
                for way in WAYS[order["dark"]]:
                    self.dark_until[way] = max(self.dark_until[way], time.monotonic() + order["seconds"])
            if "kill_flows" in order:
                self.kill_flows(order["kill_flows"], WAYS[order["way"]])

    def say(self, now, **more):
        self.said_at = now
        print(json.dumps(dict(self.counts, ev="counts", **more)), flush=True)


class Packets(Line):
    def __init__(self, seed, fds):
        super().__init__(seed)
        self.fds = fds
        self.waiting, self.number = [], 0       # (when, number, way, packet)
        self.flows = {}                         # client's port -> when seen last
        self.dead = {}                          # ... -> the ways that no packet of it goes any more
        self.free_at = [0.0, 0.0]               # when the rate limit has room again

    def kill_flows(self, most, ways):
        now = time.monotonic()
        alive = [port for port, seen in self.flows.items() if now - seen < 30 and port not in self.dead]
        for port in self.rng.sample(alive, min(most, len(alive))):
            self.dead[port] = ways
            self.counts["flows that died"] += 1

    def take(self, way, packet):
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return
        now, weather, chance = time.monotonic(), self.weather, self.rng.random
        header = (packet[0] & 15) * 4
        port = int.from_bytes(packet[header + 2 * way:header + 2 * way + 2], "big")
        if packet[header + 13] & 2 and way == UP and port not in self.flows:
            self.dead.pop(port, None)
        self.flows[port] = now
        self.counts["packets"] += 1
        if self.dark(way, now):
            self.counts["packets into the dark"] += 1
            return
        if way in self.dead.get(port, ()):
            self.counts["packets of dead flows"] += 1
            return
        if chance() < weather["loss"]:
            self.counts["packets lost"] += 1
            return
        if chance() < weather["corrupt"]:
            self.counts["packets corrupted"] += 1       # TCP's checksum finds it
            at = self.rng.randrange(header + 20, len(packet)) if len(packet) > header + 20 else header + 14
            packet = packet[:at] + bytes((packet[at] ^ 0x10,)) + packet[at + 1:]
        due = now
        if weather["bytes_per_s"]:
            begin = max(now, self.free_at[way])
            if begin - now > QUEUE_SECONDS:
                self.counts["packets above the rate"] += 1
                return
            due = self.free_at[way] = begin + len(packet) / weather["bytes_per_s"]
        due += (weather["delay_ms"] + chance() * weather["jitter_ms"]) / 1000
        if chance() < weather["reorder"]:
            self.counts["packets reordered"] += 1
            due += self.rng.uniform(0.01, 0.15)
        self.push(due, way, packet)
        if chance() < weather["double"]:
            self.counts["packets doubled"] += 1
            self.push(due + self.rng.uniform(0, 0.05), way, packet)

    def push(self, due, way, packet):
        self.number += 1
        heapq.heappush(self.waiting, (due, self.number, way, packet))

    def run(self):
        while not self.over:
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                _, _, way, packet = heapq.heappop(self.waiting)
                try:
                    os.write(self.fds[1 - way], packet)
                except OSError:
                    self.counts["packets not taken"] += 1
            if now - self.said_at >= 1:
                self.say(now)
                for port in [port for port, seen in self.flows.items() if now - seen > 300]:
                    del self.flows[port]
            patience = min(self.waiting[0][0] - now if self.waiting else 1, 1)
            ready = select.select([0] + self.fds, [], [], max(patience, 0))[0]
            for way, fd in enumerate(self.fds):
                for _ in range(64 if fd in ready else 0):
                    try:
                        self.take(way, os.read(fd, 65536))
                    except OSError:
                        break
            if 0 in ready:
                self.read_orders()
        self.say(time.monotonic())


class Flow:
    """A connection of the proxy: two sockets, and what is on its way between them."""

    def __init__(self, sockets):
        self.sockets, self.queues, self.ended, self.dead = sockets, [collections.deque(), collections.deque()], [0, 0], ()
        self.free_at = [0.0, 0.0]

    def close(self):
        for each in self.sockets:
            each.close()


class Proxy(Line):
    def __init__(self, seed, client, gateway):
        super().__init__(seed)
        self.flows = []
        enter(client)
        self.listener = socket.create_server(("127.0.0.1", PORT), backlog=64)
        enter(gateway)

    def kill_flows(self, most, ways):
        alive = [flow for flow in self.flows if not flow.dead]
        for flow in self.rng.sample(alive, min(most, len(alive))):
            flow.dead = ways
            self.counts["flows that died"] += 1

    def accept(self):
        near = self.listener.accept()[0]
        far = socket.socket()
        try:
            far.connect(("127.0.0.1", PORT))    # loopback: at once, or refused
        except OSError:
            near.close()
            return
        for each in (near, far):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flows.append(Flow((near, far)))

    def read(self, flow, way):
        now = time.monotonic()
        try:
            piece = flow.sockets[way].recv(4096)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        flow.ended[way] = not piece
        due = now + (self.weather["delay_ms"] + self.rng.random() * self.weather["jitter_ms"]) / 1000
        if flow.queues[way]:
            due = max(due, flow.queues[way][-1][0])     # a stream stays in order
        if self.weather["bytes_per_s"]:
            due = flow.free_at[way] = max(due, flow.free_at[way]) + len(piece) / self.weather["bytes_per_s"]
        flow.queues[way].append((due, piece))
        self.counts["pieces"] += 1

    def write(self, flow, way, now):
        """0: this flow is over."""
        queue = flow.queues[way]
        while queue and queue[0][0] <= now and not self.dark(way, now) and way not in flow.dead:
            piece = queue[0][1]
            try:
                if not piece:
                    flow.sockets[1 - way].shutdown(socket.SHUT_WR)
                    return not all(flow.ended)
                sent = flow.sockets[1 - way].send(piece)
            except BlockingIOError:
                return 1
            except OSError:
                return 0
            if sent < len(piece):
                queue[0] = (queue[0][0], piece[sent:])
                return 1
            queue.popleft()
        return 1

    def run(self):
        while not self.over:
            now = time.monotonic()
            over = [flow for flow in self.flows if not (self.write(flow, UP, now) and self.write(flow, DOWN, now))]
            for flow in over:
                self.flows.remove(flow)
                flow.close()
            if now - self.said_at >= 1:
                self.say(now)
            readable = {flow.sockets[way]: (flow, way) for flow in self.flows for way in (UP, DOWN)
                        if not flow.ended[way] and len(flow.queues[way]) < 64}
            ready = select.select([0, self.listener] + list(readable), [], [], 0.005 if self.flows else 1)[0]
            for each in ready:
                if each in readable:
                    self.read(*readable[each])
            if self.listener in ready:
                self.accept()
            if 0 in ready:
                self.read_orders()
        self.say(time.monotonic())


def main():
    client, gateway, seed = sys.argv[1:4]
    if "--proxy" in sys.argv:
        line = Proxy(seed, client, gateway)
    else:
        line = Packets(seed, [open_tun(client), open_tun(gateway)])
    print('{"ev":"up"}', flush=True)
    line.run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
