#!/usr/bin/python3
"""The simulator and a WebSocket client that we did not write: Debian's python3-websockets, with the
headers that it sends by itself.

  /usr/bin/python3 tests/foreign_client_test.py [-v] [part of a test's name]"""
import asyncio
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

import websockets

from support import CERTS, TOKEN, Gwsim, expect, main, test


def trust():
    return ssl.create_default_context(cafile=os.path.join(CERTS, "ca.pem"))


def identify():
    properties = {"os": "linux", "browser": "foreign", "device": "foreign"}
    return json.dumps({"op": 2, "d": {"token": TOKEN, "intents": 513, "properties": properties}})


async def reach_ready(url):
    url += "/?v=10&encoding=json"
    async with websockets.connect(url, ssl=trust(), max_size=None) as socket:
        expect(json.loads(await socket.recv())["op"] == 10)
        await socket.send(identify())
        ready = json.loads(await socket.recv())
        expect(ready["t"] == "READY" and ready["s"] == 1, ready)
        await socket.send('{"op":1,"d":1}')
        while json.loads(await socket.recv())["op"] != 11:
            pass


@test
def a_foreign_client_reaches_ready_with_the_headers_it_has():
    with Gwsim() as sim:
        asyncio.run(asyncio.wait_for(reach_ready(sim.url), 20))
        sim.wait_for(lambda line: line["ev"] == "violation")
        rules = [line["rule"] for line in sim.violations()]
        expect(rules == ["user_agent"], rules)


@test
def the_http_api_refuses_a_foreign_user_agent():
    with Gwsim() as sim:
        try:
            url = sim.url.replace("wss", "https") + "/api/v10/gateway"
            urllib.request.urlopen(url, context=trust(), timeout=20)
            expect(False, "it was let in")
        except urllib.error.HTTPError as answer:
            expect(answer.code == 403, answer.code)
        sim.wait_for(lambda line: line["ev"] == "violation")    # its log comes by a pipe of its own
        expect([line["rule"] for line in sim.violations()] == ["user_agent"])


if __name__ == "__main__":
    sys.exit(main("foreign_client_test"))
