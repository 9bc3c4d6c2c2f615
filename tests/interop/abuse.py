#!/usr/bin/python3
"""Raw ttrpc frames, right and wrong, against a running grokd that serves the demo model. TAP.

    abuse.py SOCKET PID
"""

import os
import socket
import struct
import sys
import time
import traceback

import grokd_pb2 as pb

REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4
MESSAGE_MAX = 4 << 20
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 4, 8, 12

SLOWNESS = int(os.environ.get("GROKD_TEST_SLOWNESS", "1"))  # of a build with sanitizers

path, daemon = sys.argv[1], int(sys.argv[2])


# ---- the wire by hand ----

def varint(n):
    out = b""
    n &= (1 << 64) - 1
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """Decodes one level of a message to {number: last value}."""
    out, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            out[key >> 3] = number()
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            n = number()
            out[key >> 3] = data[at:at + n]
            at += n
    return out


def frame(stream, kind, flags, body=b"", length=None):
    return struct.pack(">IIBB", len(body) if length is None else length, stream, kind, flags) + body


def request(service, method, message, timeout_ns=0):
    name = b"grokd.v1." + service if b"." not in service else service
    body = field(1, name) + field(2, method) + field(3, message.SerializeToString())
    return body + (varint(4 << 3) + varint(timeout_ns) if timeout_ns else b"")


def status_request():
    return request(b"Admin", b"Status", pb.StatusRequest())


def generate_request(max_tokens=8, **more):
    sampling = pb.SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return request(b"Inference", b"Generate",
                   pb.GenerateRequest(text="Q: What does tar do?\nA:", sampling=sampling, **more))


class Conn:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, *args, **named):
        self.socket.sendall(frame(*args, **named))

    def read(self):
        """(stream, type, flags, body), or None at the end."""
        header = self.file.read(10)
        if len(header) < 10:
            return None
        n, stream, kind, flags = struct.unpack(">IIBB", header)
        assert n <= MESSAGE_MAX, f"a frame of {n} bytes"
        return stream, kind, flags, self.file.read(n)

    def response(self, stream):
        """The code of the stream's Response; frames of other streams are dropped."""
        while True:
            got = self.read()
            assert got, "the connection ended without a Response"
            if got[0] == stream and got[1] == RESPONSE:
                assert got[2] == 0, f"flags {got[2]} on a Response"
                return fields(fields(got[3]).get(1, b"")).get(1, 0)

    def stream_end(self, stream):
        """Reads a server stream to its end: (events, code)."""
        events = []
        while True:
            got = self.read()
            assert got, "the connection ended inside a stream"
            if got[0] != stream:
                continue
            if got[1] == RESPONSE:
                return events, fields(fields(got[3]).get(1, b"")).get(1, 0)
            assert got[1] == DATA
            if got[2] & NO_DATA:
                assert got[2] == REMOTE_CLOSED | NO_DATA and not got[3]
                return events, 0
            assert got[2] == 0, f"flags {got[2]} on Data"
            events.append(pb.GenerateEvent.FromString(got[3]))
            assert events[-1].seq == len(events) - 1

    def works(self, stream):
        self.send(stream, REQUEST, REMOTE_CLOSED, status_request())
        assert self.response(stream) == 0

    def ended(self):
        """Reads until the daemon closes the connection; a reset is an end as well."""
        try:
            while self.read():
                pass
        except ConnectionResetError:
            pass


def daemon_status():
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_CLOSED, status_request())
        got = conn.read()
        assert got and got[1] == RESPONSE
        return pb.StatusResponse.FromString(fields(got[3])[2])


def idle(seconds=10):
    """Waits until nothing runs and only the asker is connected."""
    end = time.monotonic() + seconds * SLOWNESS
    while True:
        status = daemon_status()
        if status.requests_running + status.requests_queued == 0 and status.connections <= 1 \
                and status.kv_pages_used == 0:
            return
        assert time.monotonic() < end, f"still at work: {status}"
        time.sleep(0.02)


# ---- the tests ----

def flags_of_every_client():
    """Go sends 0 or 1 with a request; Rust 0, 1, or 6 where it means to send more."""
    with Conn() as conn:
        for stream, flags in ((1, 0), (3, REMOTE_CLOSED)):
            conn.send(stream, REQUEST, flags, status_request())
            assert conn.response(stream) == 0
        for stream, flags in ((5, REMOTE_CLOSED), (7, 0)):
            conn.send(stream, REQUEST, flags, generate_request())
            events, code = conn.stream_end(stream)
            assert code == 0 and events[-1].final.total_events == len(events)


def one_byte_per_write():
    with Conn() as conn:
        for byte in frame(1, REQUEST, REMOTE_CLOSED, generate_request()):
            conn.socket.sendall(bytes([byte]))
        events, code = conn.stream_end(1)
        assert code == 0 and events[-1].HasField("final")


def many_frames_in_one_write():
    with Conn() as conn:
        conn.socket.sendall(b"".join(frame(2 * i + 1, REQUEST, REMOTE_CLOSED, status_request())
                                     for i in range(64)))
        answered = set()
        while len(answered) < 64:
            got = conn.read()
            assert got and got[1] == RESPONSE and got[0] not in answered
            answered.add(got[0])


def unknown_types_are_ignored():
    with Conn() as conn:
        conn.send(1, 4, 0, b"what is this")
        conn.send(0, 255, 255)
        conn.works(3)


def bad_ids():
    with Conn() as conn:
        conn.send(2, REQUEST, REMOTE_CLOSED, status_request())
        assert conn.response(2) == INVALID_ARGUMENT
        conn.send(5, REQUEST, REMOTE_CLOSED, generate_request(max_tokens=2000))
        conn.send(5, REQUEST, REMOTE_CLOSED, status_request())
        # The id in use again: that request is refused; ttrpc has no way to tell which one is meant.
        assert conn.response(5) == INVALID_ARGUMENT
        conn.works(7)
    idle()


def ids_out_of_order():
    """Rust's client may put requests on the wire in another order than it numbered them."""
    with Conn() as conn:
        for stream in (9, 3, 7, 5):
            conn.works(stream)


def data_on_unary():
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_OPEN, status_request())
        conn.send(1, DATA, 0, b"x")
        conn.send(99, DATA, 0, b"on a stream that never was")
        conn.works(101)
    os.kill(daemon, 0)


def malformed_requests():
    with Conn() as conn:
        for i, body in enumerate((b"\xff" * 20, b"", field(1, b"\xff\xfe"), b"\x0a\xff\xff\xff\x7f",
                                  field(1, b"grokd.v1.Admin") + b"\x12\x64")):
            conn.send(2 * i + 1, REQUEST, REMOTE_CLOSED, body)
            assert conn.response(2 * i + 1) in (INVALID_ARGUMENT, UNIMPLEMENTED), body
        broken = field(1, b"grokd.v1.Inference") + field(2, b"Generate") + field(3, b"\x0a\x7fshort")
        conn.send(21, REQUEST, REMOTE_CLOSED, broken)
        assert conn.stream_end(21)[1] == INVALID_ARGUMENT
        conn.works(23)


def unknown_names():
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_CLOSED, request(b"Admin", b"Nothing", pb.StatusRequest()))
        assert conn.response(1) == UNIMPLEMENTED
        conn.send(3, REQUEST, REMOTE_CLOSED, request(b"no.such.Thing", b"Status", pb.StatusRequest()))
        assert conn.response(3) == UNIMPLEMENTED
        conn.works(5)


def expired_timeout():
    """Go sends a negative timeout where the deadline has already passed."""
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_CLOSED,
                  request(b"Inference", b"Tokenize", pb.TokenizeRequest(text="x"), timeout_ns=-5))
        assert conn.response(1) == DEADLINE_EXCEEDED
        conn.works(3)


def four_mebibytes():
    """Exactly 4 MiB is legal (what it asks may be refused), one byte more is not."""
    with Conn() as conn:
        head = field(1, b"grokd.v1.Inference") + field(2, b"Tokenize")
        text = MESSAGE_MAX - len(head) - 10
        payload = field(2, b"a" * text)
        body = head + field(3, payload)
        body = head + field(3, field(2, b"a" * (text - (len(body) - MESSAGE_MAX))))
        assert len(body) == MESSAGE_MAX
        conn.send(1, REQUEST, REMOTE_CLOSED, body)
        assert conn.response(1) in (0, INVALID_ARGUMENT, RESOURCE_EXHAUSTED)
        conn.works(3)
        conn.send(5, REQUEST, REMOTE_CLOSED, body + b"a")
        assert conn.response(5) == RESOURCE_EXHAUSTED
        conn.works(7)  # the body was discarded to its last byte


def length_beyond_reason():
    with Conn() as conn:
        conn.send(1, REQUEST, 0, b"", length=0x7FFFFFFF)
        try:
            while True:
                conn.socket.sendall(b"\0" * 65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert daemon_status().pid == daemon


def not_ttrpc():
    for bytes_ in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\xff" * 64):
        with Conn() as conn:
            conn.socket.sendall(bytes_)
            conn.ended()


def half_close():
    """A client that has said all still gets its answers."""
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_CLOSED, generate_request(max_tokens=50))
        conn.send(3, REQUEST, REMOTE_CLOSED, status_request())
        conn.socket.shutdown(socket.SHUT_WR)
        events, code = conn.stream_end(1)
        assert code == 0 and events[-1].final.usage.generated_tokens == 50
        conn.ended()


def data_after_the_request():
    """A streaming client closes its side with a frame of its own, with or without a last message."""
    with Conn() as conn:
        conn.send(1, REQUEST, REMOTE_OPEN, generate_request())
        conn.send(1, DATA, REMOTE_CLOSED | NO_DATA)
        events, code = conn.stream_end(1)
        assert code in (0, INVALID_ARGUMENT)
        conn.works(3)


def disconnects_anywhere():
    whole = frame(1, REQUEST, REMOTE_CLOSED, generate_request(max_tokens=4000))
    for cut in [*range(0, len(whole), 7), len(whole)]:
        with Conn() as conn:
            conn.socket.sendall(whole[:cut])
    idle()


def never_reader():
    """Who does not read is ended at a limit; others don't notice."""
    with Conn() as lazy:
        lazy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for i in range(4):
            lazy.send(2 * i + 1, REQUEST, REMOTE_CLOSED, generate_request(max_tokens=4000,
                                                                          token_ids=True))
        slowest = 0
        for _ in range(20):
            begun = time.monotonic()
            assert daemon_status().pid == daemon
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 5 * SLOWNESS, f"Status took {slowest:.1f} s beside a client that doesn't read"
    idle(60)


def flood_without_reading():
    """Requests without end from a client that never reads: bounded memory, and an end."""
    before = daemon_status().resident_bytes
    with Conn() as conn:
        conn.socket.settimeout(2)
        burst = b"".join(frame(2 * i + 1, REQUEST, REMOTE_CLOSED, status_request())
                         for i in range(4096))
        try:
            for _ in range(100):
                conn.socket.sendall(burst)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        grown = daemon_status().resident_bytes - before
        assert grown < SLOWNESS * 256 << 20, f"grew by {grown} bytes"
    idle(60)


def many_idle_connections():
    conns = [Conn() for _ in range(200)]
    try:
        assert daemon_status().connections >= 1
        conns[0].works(1)
        conns[-1].works(1)
    finally:
        for conn in conns:
            conn.__exit__()
    idle()


def main():
    tests = [flags_of_every_client, one_byte_per_write, many_frames_in_one_write,
             unknown_types_are_ignored, bad_ids, ids_out_of_order, data_on_unary,
             malformed_requests, unknown_names, expired_timeout, four_mebibytes,
             length_beyond_reason, not_ttrpc, half_close, data_after_the_request,
             disconnects_anywhere, never_reader, flood_without_reading, many_idle_connections]
    failed = 0
    for i, test in enumerate(tests):
        try:
            test()
            print(f"ok {i + 1} - {test.__name__}")
        except Exception:  # whatever went wrong is this test's failure, and the next one runs
            failed += 1
            print(traceback.format_exc())
            print(f"not ok {i + 1} - {test.__name__}")
        sys.stdout.flush()
    print(f"1..{len(tests)}")
    return failed > 0


sys.exit(main())
