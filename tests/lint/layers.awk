# Folders are layers: base <- engine, base <- proto, and daemon and client above them. Prints every
# include that points elsewhere; the exit status is 1 where there is one.
#
#   awk -f layers.awk FILE...     with paths from the root, such as daemon/conn.c

BEGIN {
    # What a folder may include of ours; "x/" is a folder, anything else one header.
    ours["base"] = "base/"
    ours["engine"] = "base/ engine/"
    ours["proto"] = "base/ proto/"
    ours["client"] = "base/ proto/ client/"
    ours["daemon"] = "base/ proto/ engine/engine.h daemon/"
    ours["tests"] = "base/ proto/ engine/ daemon/ client/ tests/"

    # Who may include a library's header, by the beginning of its name. What isn't here is free.
    theirs["uv.h"] = "daemon tests"
    theirs["systemd/"] = "daemon tests"
    theirs["protobuf-c/"] = "proto daemon client tests"
    theirs["google/"] = "proto"
    theirs["jansson.h"] = "engine client tests"
    theirs["xxhash.h"] = "engine tests"
    theirs["nghttp2/"] = "proto tests"
    theirs["cblas"] = "engine tests"
    theirs["openblas"] = "engine tests"
    theirs["sys/socket.h"] = "client daemon tests"
    theirs["sys/un.h"] = "client daemon tests"
    theirs["poll.h"] = "client daemon tests"
}

function complain(text) {
    printf "%s:%d: %s\n", FILENAME, FNR, text
    bad = 1
}

function allowed(list, header,    n, i, words) {
    n = split(list, words, " ")
    for (i = 1; i <= n; i++)
        if (words[i] == header || (words[i] ~ /\/$/ && index(header, words[i]) == 1))
            return 1
    return 0
}

FNR == 1 {
    folder = FILENAME
    sub(/\/.*/, "", folder)
    if (!(folder in ours))
        complain("no layer is called " folder)
}

/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, part, "\"")
    header = part[2]
    if (FILENAME == "client/grokd.h")
        complain("the public header includes \"" header "\", which is not installed")
    else if (header !~ /\// || header ~ /\.\.\//)
        complain("\"" header "\" is not written from the root")
    else if (!allowed(ours[folder], header))
        complain(folder " may not include \"" header "\"")
}

/^[ \t]*#[ \t]*include[ \t]*</ {
    header = $0
    sub(/^[^<]*</, "", header)
    sub(/>.*/, "", header)
    for (prefix in theirs)
        if (index(header, prefix) == 1 && index(" " theirs[prefix] " ", " " folder " ") == 0)
            complain(folder " may not include <" header ">")
}

END { exit bad }
