#!/usr/bin/env bash
# Includes point down the layers only; and the check that says so can fail.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
cd "$root" || exit 1

our_includes() {
    tests/lint/files.sh '*.c' '*.h' | xargs awk -f tests/lint/layers.awk
}

sample() { # FILE LINE: one file with one line, checked alone
    mkdir -p "$scratch/tree/$(dirname "$1")"
    echo "$2" >"$scratch/tree/$1"
    (cd "$scratch/tree" && awk -f "$root/tests/lint/layers.awk" "$1")
}

check "no include points up or aside" our_includes
check "daemon may include engine/engine.h" sample daemon/a.c '#include "engine/engine.h"'
check "client may include proto" sample client/a.c '#include "proto/status.h"'
check "daemon may include libuv" sample daemon/b.c '#include <uv.h>'
refuse "base may not include engine" sample base/a.c '#include "engine/engine.h"'
refuse "engine may not include proto" sample engine/a.c '#include "proto/codec.h"'
refuse "engine may not include daemon" sample engine/kern/a.c '#  include "daemon/conn.h"'
refuse "engine may not include libuv" sample engine/b.c '#include <uv.h>'
refuse "proto may not include engine" sample proto/a.c '#include "engine/engine.h"'
refuse "proto may not see a socket" sample proto/b.c '#include <sys/socket.h>'
refuse "daemon may not include the engine's inside" sample daemon/c.c '#include "engine/pool.h"'
refuse "client may not include daemon" sample client/b.c '#include "daemon/conn.h"'
refuse "client may not include the engine" sample client/c.c '#include "engine/engine.h"'
refuse "the public header includes nothing of ours" sample client/grokd.h '#include "base/buf.h"'
refuse "includes are written from the root" sample daemon/d.c '#include "conn.h"'
refuse "a new folder needs a layer" sample util/a.c '#include "base/buf.h"'
finish
