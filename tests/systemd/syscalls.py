#!/usr/bin/env python3
"""Names the system calls of a trace that a unit's SystemCallFilter would deny.

    syscalls.py UNIT STRACE-OUTPUT
"""

import re
import subprocess
import sys


def members(name):
    """A system call, or all that are in a @set."""
    if not name.startswith("@"):
        return {name}
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    words = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return set().union(*(members(w) for w in words if not w.startswith("#")))


def allowed(unit):
    """As systemd reads them: the first line makes it an allow list; ~ takes away again."""
    calls = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        names = set().union(*(members(name) for name in line.lstrip("~").split()))
        calls = calls - names if line.startswith("~") else calls | names
    return calls


unit, trace = (open(path, encoding="utf-8", errors="replace").read() for path in sys.argv[1:])
used = set(re.findall(r"^(?:\d+\s+)?([a-z][a-z0-9_]*)\(", trace, re.M))
denied = sorted(used - allowed(unit))
if len(used) < 10:
    sys.exit(f"only {len(used)} system calls in the trace")
if denied:
    sys.exit("the unit denies: " + " ".join(denied))
print(f"{len(used)} system calls, all allowed")
