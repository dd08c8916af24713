"""Writes the seeds of the fuzzers into tests/fuzz/corpus/TARGET/: python3 tests/fuzz/make_corpus.py. What is there by
other names stays. Each seed is what a server, a file or a caller may really bring, or a known kind of trouble."""
import base64
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CERTS = os.path.join(HERE, "..", "certs")


def put(target, name, *parts):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    data = b"".join(part.encode() if isinstance(part, str) else bytes(part) for part in parts)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def frame(opcode, payload, fin=True):
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([len(payload)])
    elif len(payload) < 65536:
        head += struct.pack(">BH", 126, len(payload))
    else:
        head += struct.pack(">BQ", 127, len(payload))
    return head + payload


def ws():
    seed = b"\x05"
    text = "gr\u00fc\u00dfe \U0001F600".encode()
    put("ws", "text", seed, frame(1, b"{\"op\":11}"))
    put("ws", "binary", seed, frame(2, bytes(range(40))))
    put("ws", "utf8-in-fragments", seed, *[frame(1 if i == 0 else 0, text[i:i + 1], i == len(text) - 1)
                                           for i in range(len(text))])
    put("ws", "ping-between-fragments", seed, frame(1, b"ab", False), frame(9, b"are you there"), frame(0, b"cd"))
    put("ws", "pong", seed, frame(10, b""))
    put("ws", "close-4004", seed, frame(8, struct.pack(">H", 4004) + b"Authentication failed."))
    put("ws", "close-empty", seed, frame(8, b""), b"swallowed")
    put("ws", "close-half", seed, frame(8, b"\x03"))
    put("ws", "close-1005", seed, frame(8, struct.pack(">H", 1005)))
    put("ws", "length-16", seed, frame(1, b"x" * 126))
    put("ws", "length-64", seed, b"\x82\x7f", struct.pack(">Q", 65536), b"x" * 50)
    put("ws", "length-lies", seed, b"\x81\x7f\x80" + b"\0" * 7)
    put("ws", "length-not-shortest", seed, b"\x81\x7e\x00\x05hello")
    put("ws", "masked", seed, b"\x81\x85\x01\x02\x03\x04hello")
    put("ws", "reserved-bit", seed, b"\xc1\x05hello")
    put("ws", "not-utf8", seed, frame(1, b"ok \xed\xa0\x80"))
    put("ws", "empty-fragments", seed, frame(1, b"", False), frame(0, b"", False), frame(0, b""))
    put("ws", "continuation-of-nothing", seed, frame(0, b"x"))


MESSAGE = ('{"t":"MESSAGE_CREATE","s":12,"op":0,"d":{"id":"1098765432109876543","content":"\\u00e4\\ud83d\\ude00 \\"hi\\"",'
           '"mentions":[],"pinned":false,"type":0,"edited_timestamp":null,"ratio":-1.25e-3,'
           '"author":{"id":"80351110224678912","bot":true},"a":[1,[2,{"b":"c"}],3]}}')


def json():
    seed = b"\x07"
    texts = {
        "message": MESSAGE,
        "hello": '{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\\"gateway\\"]"]}}',
        "ack": '{"t":null,"s":null,"op":11,"d":null}',
        "usual": '{"t":"GUILD_MEMBER_UPDATE","s":1234567,"op":0,"d":{"guild_id":"1","roles":["%s"],"nick":"\\"{[\\\\"}}'
                 % ("x" * 140),
        "usual-second-d": '{"t":"A_1","s":1,"op":0,"d":{"a":"%s"},"d":[{}],"s":2}' % ("y" * 180),
        "d-first": '{"d":{"id":"1"},"op":0,"s":3,"t":"X"}',
        "d-twice": '{"op":0,"d":1,"d":[2],"s":3,"t":"X"}',
        "deep": '{"op":0,"d":' + "[" * 60 + "]" * 60 + "}",
        "lone-surrogates": '{"a":"\\ud83d","b":"\\ude00\\ud83d\\ud83d\\ude00","t":"\\ud800"}',
        "numbers": '[0,-0,1e5,1E+5,0.5,-1.5e-10,18446744073709551615,9223372036854775807,-9223372036854775808]',
        "escaped-keys": '{"\\u006fp":0,"\\u0073":1,"\\u0074":"\\u0041","\\u0064":{"\\u0061":{"b":1}}}',
        "space": ' \r\n\t{ "op" : 0 , "d" : [ 1 , 2 ] , "t" : "A" , "s" : 5 } \n',
        "not-closed": '{"op":0,"d":[1,2',
        "wrong-bracket": '{"op":0,"d":[{"a":1]},"s":1}',
        "control-byte": '{"op":0,"t":"a\nb"}',
        "leading-zero": '{"op":00}',
        "trailing-comma": '{"op":0,"d":[1,],}',
        "empty-key": '{"":{"":1},"a.b":2}',
        "string": '"\\u00e4\\n\\/"',
        "long-t": '{"op":0,"t":"' + "\u00e4" * 80 + '","s":1}',
        "digits": '[0.1000000000000000055511151231257827021181583404541015625,1e400,1e-400,5e-324]',
    }
    for name, text in texts.items():
        put("json", name, seed, text)
    secrets = {
        "token": '{"op":2,"d":{"token":"abcdef","intents":1}}',
        "session": '{"op":6,"d":{"token":"abc","session_id":"0123456789abcdef","seq":5}}',
        "escaped": '{"\\u0074oken":"abc","se\\u0073sion_id":"x\\"y"}',
        "nested": '{"d":[{"token":{"token":"a"}},{"token":["b"]},{"token":null},{"session_id":5}]}',
        "as-value": '{"a":"token","b":"session_id","token":"token"}',
        "space": '{"token" \n:\t "abc" , "x":1}',
        "not-closed": '{"token":"abc',
        "message": MESSAGE,
    }
    for name, text in secrets.items():
        put("redact", name, seed, text)


def http():
    accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    body = ('{"url":"wss://gateway.discord.gg","shards":9,"session_start_limit":{"total":1000,"remaining":999,'
            '"reset_after":14400000,"max_concurrency":1}}')
    get, upgrade, connect, small = b"\x05\x00", b"\x05\x01", b"\x05\x02", b"\x05\x04"
    put("http", "upgrade", upgrade, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n",
        "Connection: keep-alive, Upgrade\r\n", accept, "\r\n", frame(1, b"{}"))
    put("http", "upgrade-wrong-accept", upgrade, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Sec-WebSocket-Accept: x\r\n\r\n")
    put("http", "upgrade-extension", upgrade, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", accept,
        "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: x\r\n\r\n")
    put("http", "upgrade-429", upgrade, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1.5\r\nContent-Length: 2\r\n\r\nno")
    put("http", "length", get, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    put("http", "chunked", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nxyz\r\n0\r\n",
        "Trailer: 1\r\n\r\n")
    put("http", "until-end", get, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", body)
    put("http", "length-and-chunked", get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    put("http", "two-lengths", get, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
    put("http", "length-negative", get, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
    put("http", "length-huge", get, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000000\r\n\r\n")
    put("http", "chunk-huge", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
    put("http", "interim", get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n")
    put("http", "redirect", get, "HTTP/1.1 301 Moved\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n")
    put("http", "error-page", small, "HTTP/1.1 503 No\r\nContent-Length: 200\r\n\r\n", "<html>\x1b[31m" + "x" * 190)
    put("http", "connect", connect, "HTTP/1.1 200 Established\r\n\r\n\x16\x03\x03")
    put("http", "folded", get, "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")
    put("http", "bare-lf", get, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")
    put("http", "not-http", get, "SSH-2.0-OpenSSH_9.2\r\n")


def url():
    texts = ["wss://gateway.discord.gg\nwss://gateway-us-east1-b.discord.gg",
             "wss://gateway.discord.gg/?v=10&encoding=json\nwss://gateway.discord.gg:8443/x?compress=zlib-stream&a=b",
             "ws://[::1]:8080/resume\nws://[0:0:0:0:0:0:0:1]/", "ws://127.0.0.1/\nws://127.0.0.2/", "http://localhost",
             "wss://gateway.discord.gg\nwss://gateway.discord.gg.evil.example/",
             "wss://gateway.discord.gg\nwss://evildiscord.gg/", "wss://a.b.co.uk\nwss://x.b.co.uk",
             "wss://localhost\nwss://a.localhost", "wss://user:password@gateway.discord.gg/", "wss://[::ffff:1.2.3.4]/",
             "wss://[fe80::1%25eth0]/", "wss://010.0.0.1/", "wss://1.2.3/", "wss://0x7f.1/", "wss://x_y-z.example:65535?a",
             "WSS://GATEWAY.Discord.GG:443/A?V=9&b", "wss://a..b/", "wss://gateway.discord.gg./", "wss://h\\@evil/",
             "wss://h/#f", "ws://discord.gg/", "https://discord.com/api?v=9&&encoding=etf&=x&v"]
    for number, text in enumerate(texts):
        put("url", "%02d" % number, text)


def ders(name):
    text = open(os.path.join(CERTS, name)).read()
    blocks = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", text, re.S)
    return [base64.b64decode(block) for block in blocks]


def certificates():
    pem = lambda name: open(os.path.join(CERTS, name)).read()
    put("trust", "ca", b"\x05", pem("ca.pem"))
    put("trust", "two", b"\x07", "# comment\r\n", pem("other-ca.pem").replace("\n", "\r\n"), pem("ca.pem"))
    put("trust", "rsa", b"\x05", pem("server-rsa.pem"))
    put("trust", "der", b"\x07", ders("ca.pem")[0])
    put("trust", "der-rsa", b"\x07", ders("server-rsa.pem")[0])
    put("trust", "key-between", b"\x05", pem("ca.key"), pem("ca.pem"))
    put("trust", "no-end", b"\x05", pem("ca.pem")[:-60])
    put("trust", "x509", b"\x05", pem("ca.pem").replace("CERTIFICATE", "X509 CERTIFICATE"))
    put("trust", "empty", b"\x05", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    for name in ("server", "server-rsa", "missing-intermediate", "expired", "not-yet", "wrong-host", "wildcard", "no-san",
                 "self-signed", "unknown-ca", "not-a-ca", "sha1", "wrong-usage", "any-usage", "key-usage", "critical",
                 "names-only", "rsa1024"):
        chain = b"".join(struct.pack(">I", len(der))[1:] + der for der in ders(name + ".pem"))
        put("tls_cert", name, b"\x05\x03" if name == "wildcard" else b"\x05\x00", chain)
    chain = b"".join(struct.pack(">I", len(der))[1:] + der for der in ders("server.pem"))
    put("tls_cert", "address", b"\x05\x01", chain)
    put("tls_cert", "floor", b"\x05\x14", chain)
    for name in ("names-only", "wrong-host"):
        chain = b"".join(struct.pack(">I", len(der))[1:] + der for der in ders(name + ".pem"))
        put("tls_cert", "address-" + name, b"\x05\x01", chain)
    put("tls_cert", "late", b"\x05\x08", chain)
    put("tls_cert", "alert", b"\x05\x00", b"\x15\x03\x03\x00\x02\x02\x28")
    put("tls_cert", "not-tls", b"\x05\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n")


def session_text():
    hours = "0001" + "00" * 20 + "0F__00"      # Identifies an hour, two digits each
    head = "gw1 11 22 1767323000 490923 %s wss://gateway.discord.gg/\n" % hours
    bare = "gw1 0 0 0 0 %s -\n" % ("00" * 25)
    shard = "0 1 5 1234 0123456789abcdef0123456789abcdef wss://gateway-us-east1-b.discord.gg/\n"
    put("session_text", "one", b"\x01", head, shard)
    put("session_text", "head", b"\x01", head)
    put("session_text", "dashes", b"\x01", bare, "0 1 1 1 abc -\n")
    put("session_text", "advised", b"\x05", head, *[
        "%d 3 5 1234 session%d -\n" % (shard_id, shard_id) for shard_id in range(3)])
    put("session_text", "three", b"\x03", head, *[
        "%d 3 5 1234 session%d wss://a.discord.gg/\n" % (shard_id, shard_id) for shard_id in range(3)])
    put("session_text", "foreign-host", b"\x09", head, "0 1 5 1234 abc wss://evil.example/\n")
    put("session_text", "plain-text", b"\x01", bare.replace("-", "ws://evil.example/"))
    put("session_text", "loopback", b"\x01", bare.replace("-", "ws://[::1]:8080/x"), "0 1 5 1234 abc ws://[0::1]/y\n")
    put("session_text", "not-sealed", b"\x00", head, shard, "end 0123456789abcdef\n")
    put("session_text", "long-words", b"\x01", head, "0 1 5 1234 %s -\n" % ("a" * 99), "1 1 5 1 b %s\n" % ("c" * 300))
    put("session_text", "numbers", b"\x01", bare.replace("gw1 0 0 0 0", "gw1 18446744073709551615 1 "
        "18446744073709551615 18446744073709551615"), "4294967295 1 4294967296 18446744073709551615 a -\n")


def main():
    for make in (ws, json, http, url, certificates, session_text):
        make()
    sys.path.insert(0, HERE)
    __import__("client_corpus").main(put)


main()
