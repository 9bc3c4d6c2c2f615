#!/usr/bin/env python3
"""A person's keys at a terminal: chat.py GROKCTL OPTION... chat. Says what it waited for in vain."""

import os
import pty
import select
import sys
import time

ANSWER = b"tar(1) - an archiving utility."
PROMPT = b"> "
SECONDS = 30 * int(os.environ.get("GROKD_TEST_SLOWNESS", "1"))


class Terminal:
    def __init__(self, argv):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", LANG="C.UTF-8", LC_ALL="C.UTF-8")
            os.environ.pop("NO_COLOR", None)
            os.execv(argv[0], argv)

    def read(self):
        if not select.select([self.fd], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.seen += data
        return bool(data)

    def await_text(self, text, without=None):
        end = time.monotonic() + SECONDS
        while text not in self.seen:
            if time.monotonic() > end or not self.read():
                sys.exit("waited for %r, saw %r" % (text, self.seen[-2000:]))
        before, self.seen = self.seen.split(text, 1)
        if without and without in before:
            sys.exit("%r came before %r" % (without, text))
        if text == PROMPT:
            self.settle()

    def settle(self):
        """Until nothing more comes: a line is drawn again and again, with what looks like a prompt."""
        n = -1
        while n != len(self.seen):
            n = len(self.seen)
            self.read()
        self.seen = b""

    def keys(self, text):
        os.write(self.fd, text)

    def line(self, text):
        self.keys(text + b"\r")

    def end(self):
        end = time.monotonic() + SECONDS
        while self.read() and time.monotonic() < end:
            pass
        status = os.waitpid(self.pid, 0)[1]
        assert status == 0, "ended with %d: %s" % (status, self.seen.decode(errors="replace")[-3000:])


t = Terminal(sys.argv[1:])
t.await_text(PROMPT)
t.line(b"What does tax\x7fr do?")  # Backspace
t.await_text(ANSWER)
t.await_text(b"\033[2m[12 tokens")  # dim
t.await_text(PROMPT)
for text in (b"/set ignore-eos yes", b"/set max-tokens 4000", b"/clear"):
    t.line(text)
    t.await_text(PROMPT)
for _ in range(3):  # Ctrl-C stops the answer, each time anew
    t.line(b"And what does ls do?")
    t.await_text(b"do?")
    t.await_text(b"(1)")
    t.keys(b"\x03")
    t.await_text(b"[interrupted]")
    t.await_text(PROMPT)
    t.line(b"/clear")
    t.await_text(PROMPT)
t.line(b"And what does ls do?")
t.await_text(b"(1)")
t.keys(b"\x13")  # Ctrl-S: a write waits when Ctrl-C comes
time.sleep(0.3)
t.keys(b"\x03")
t.await_text(b"\033[2m[", without=b"can't write")  # interrupted, or at its end
t.await_text(PROMPT)
t.line(b"/clear")
t.await_text(PROMPT)
t.keys(b"not said\x03")  # and gives a line up
t.await_text(b"^C")
t.await_text(PROMPT)
t.line(b"/set ignore-eos no")
t.await_text(PROMPT)
t.line(b"/clear")
t.await_text(PROMPT)
t.keys(b"do tar does What?\x01")  # Ctrl-A, then mended
t.keys(b"\x0bWhat does tar do?\r")  # Ctrl-K
t.await_text(ANSWER)
t.await_text(PROMPT)
t.line(b"/clear")
t.await_text(PROMPT)
t.keys(b"\x1b[A\x1b[A\r")  # up twice: the question
t.await_text(ANSWER)
t.await_text(PROMPT)
t.line("naïve 你好".encode() + b"\x7f\x7f")
t.await_text(b"tokens, ")
t.await_text(PROMPT)
t.line(b"/history")
t.await_text("user: naïve\r".encode())
t.await_text(PROMPT)
t.line(b'"""')
t.await_text(b". ")
t.line(b"first")
t.await_text(b". ")
t.line(b'second"""')
t.await_text(b"tokens, ")
t.await_text(PROMPT)
t.line(b"/clear")
t.await_text(PROMPT)
t.line(b"What does tar do?")
t.await_text(ANSWER)
t.await_text(PROMPT)
t.keys(b"\x04")
t.end()

t = Terminal(sys.argv[1:])  # another day
t.await_text(PROMPT)
t.keys(b"\x1b[A\r")
t.await_text(ANSWER)
t.await_text(PROMPT)
t.line(b"/quit")
t.end()
