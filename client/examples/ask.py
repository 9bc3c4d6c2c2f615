#!/usr/bin/python3
"""Asks grokd and prints the answer as it comes. ttrpc is simple enough to speak by hand; the
messages are made by

    protoc -I /usr/local/share/grokd --python_out=. grokd.proto ttrpc.proto

Usage: ask.py SOCKET QUESTION
"""

import socket
import struct
import sys

import grokd_pb2  # python3-protobuf
import ttrpc_pb2

REQUEST, RESPONSE, DATA = 1, 2, 3  # types of frames
REMOTE_CLOSED, NO_DATA = 1, 4  # their flags
HEADER = struct.Struct(">IIBB")  # length, stream, type, flags

path, question = sys.argv[1:]
call = ttrpc_pb2.Request(
    service="grokd.v1.Inference", method="Generate",
    payload=grokd_pb2.GenerateRequest(text=f"Q: {question}\nA:").SerializeToString(),
).SerializeToString()

with socket.socket(socket.AF_UNIX) as conn:
    conn.connect(path)
    conn.sendall(HEADER.pack(len(call), 1, REQUEST, REMOTE_CLOSED) + call)
    incoming = conn.makefile("rb")
    while header := incoming.read(HEADER.size):
        length, stream, kind, flags = HEADER.unpack(header)
        body = incoming.read(length)
        if kind == RESPONSE:  # ends a stream that failed
            sys.exit(ttrpc_pb2.Response.FromString(body).status.message)
        if kind == DATA and not flags & NO_DATA:
            event = grokd_pb2.GenerateEvent.FromString(body)
            print(event.chunk.text, end="", flush=True)
        if flags & REMOTE_CLOSED:
            break
    print()
