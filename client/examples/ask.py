#!/usr/bin/env python3
"""Asks grokd and prints the answer as it comes. ttrpc is simple enough to speak by hand:

    protoc -I /usr/local/share/grokd --python_out=. grokd.proto
    ./ask.py SOCKET QUESTION
"""

import socket
import struct
import sys

import grokd_pb2  # needs python3-protobuf

REQUEST, RESPONSE, DATA = 1, 2, 3  # types of frames
REMOTE_CLOSED, NO_DATA = 1, 4  # flags


def field(number, data):
    """A length-delimited protobuf field; the length as a varint."""
    n, length = len(data), b""
    while n > 127:
        length, n = length + bytes([n & 127 | 128]), n >> 7
    return bytes([number << 3 | 2]) + length + bytes([n]) + data


def frames(conn):
    """Yields (type, flags, body) of what the daemon sends."""
    with conn.makefile("rb") as file:
        while header := file.read(10):
            n, _stream, kind, flags = struct.unpack(">IIBB", header)
            yield kind, flags, file.read(n)


path, question = sys.argv[1:]
message = grokd_pb2.GenerateRequest(text=f"Q: {question}\nA:").SerializeToString()
call = field(1, b"grokd.v1.Inference") + field(2, b"Generate") + field(3, message)
with socket.socket(socket.AF_UNIX) as conn:
    conn.connect(path)
    conn.sendall(struct.pack(">IIBB", len(call), 1, REQUEST, REMOTE_CLOSED) + call)
    for kind, flags, body in frames(conn):
        if kind == RESPONSE:  # a stream ends with one only where it failed
            sys.exit(f"grokd refused: {body!r}")
        if kind == DATA and not flags & NO_DATA:
            event = grokd_pb2.GenerateEvent.FromString(body)
            print(event.chunk.text, end="", flush=True)
        if flags & REMOTE_CLOSED:
            break
    print()
