#!/usr/bin/env bash
# containerd's Go ttrpc client, with messages generated from grokd.proto, against a real grokd.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/../util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/../util/grokd.sh"

PATH=$PATH:/usr/local/go/bin
module=$root/build/interop # shared by all builds: nothing in it depends on them

skip_all() {
    echo "1..0 # SKIP $1"
    exit 0
}

build_programs() {
    mkdir -p "$module/bin" "$module/ask" &&
        cp "$root"/tests/interop/go/* "$module" &&
        cp "$root/client/examples/ask.go" "$module/ask" &&
        cd "$module" &&
        go build -o bin/ google.golang.org/protobuf/cmd/protoc-gen-go \
            github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc &&
        PATH=$module/bin:$PATH protoc -I "$root" proto/grokd.proto \
            --go_out=. --go_opt=module=ask,Mproto/grokd.proto=ask/grokdv1 \
            --go-ttrpc_out=. --go-ttrpc_opt=module=ask,Mproto/grokd.proto=ask/grokdv1 &&
        go vet . ./ask &&
        go build -o bin/interop . &&
        go build -o bin/ask ./ask
}

command -v go >/dev/null || skip_all "no Go on this machine and none installed from Debian"
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=mod
(cd "$root/tests/interop/go" && go mod download) >"$scratch/download" 2>&1 || {
    sed 's/^/# /' "$scratch/download"
    skip_all "Go's modules can't be downloaded"
}
if ! build_programs >"$scratch/build" 2>&1; then
    cat "$scratch/build"
    echo "not ok 1 - the Go programs compile"
    echo "1..1"
    exit 1
fi

example() {
    [ "$("$module/bin/ask" "$socket" "What does tar do?")" = " tar(1) - an archiving utility." ]
}

check "grokd starts" start_grokd
run_tap "$module/bin/interop" "$socket" "$root/engine/demo/answers.tsv"
check "the example in Go prints the answer" example
check "grokd stops" stop_grokd
finish
