#!/usr/bin/env python3
"""Reads what `make -Bn V=1` would run and writes compile_commands.json for clang's tools.

The shared library's second compilation of a source is left out.
"""

import json
import re
import sys

directory = sys.argv[1]
entries = {}
for line in sys.stdin:
    found = re.search(r"&& (\S+ .* -c -o (\S+) ([^\s/]\S*\.c))( -fPIC)?$", line.rstrip())
    if found and not found[4] and ".pb-c." not in found[3]:
        entries[found[3]] = {"directory": directory, "file": found[3], "command": found[1]}
json.dump(list(entries.values()), sys.stdout, indent=1)
