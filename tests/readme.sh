#!/usr/bin/env bash
# What README.md tells people to type does what it says: its shell blocks are cut out and run, with
# the installed files below a scratch directory.
# shellcheck source=tests/util/tap.sh
. "$(dirname "$0")/util/tap.sh"
# shellcheck source=tests/util/grokd.sh
. "$(dirname "$0")/util/grokd.sh"
cd "$root" || exit 1
PATH=$PATH:/usr/local/go/bin

tree=$scratch/tree
ANSWER=" tar(1) - an archiving utility."

block() { # WORD: the shell block that has it, its paths turned to the scratch tree
    awk -v word="$1" '
        /^```sh$/ { inside = 1; text = ""; next }
        /^```$/ { if (inside && index(text, word)) printf "%s", text; inside = 0 }
        inside { text = text $0 "\n" }' README.md |
        sed -e "s|/usr/local|$tree/usr/local|g" -e "s|/run/grokd/grokd.sock|$socket|g"
}

type_in() { # WORD: runs its block, as a person would, in a directory of its own
    local work=$scratch/work
    rm -rf "$work"
    mkdir "$work"
    ln -s "$root/client" "$work/client"
    block "$1" >"$work/block"
    cat "$work/block"
    [ -s "$work/block" ] || return 1
    (cd "$work" && GROKD_SOCKET=$socket PATH=$tree/usr/local/bin:$PATH \
        PKG_CONFIG_PATH=$tree/usr/local/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$tree \
        LD_LIBRARY_PATH=$tree/usr/local/lib bash -e ./block)
}

answers() { # WORD: the block's last line is the model's answer
    type_in "$1" >"$scratch/answer" 2>&1
    local status=$?
    cat "$scratch/answer"
    [ "$status" = 0 ] && [ "$(tail -n 1 "$scratch/answer")" = "$ANSWER" ]
}

has_answer() { # WORD: the answer is among what the block prints
    type_in "$1" | grep -F "$ANSWER"
}

examples_exist() {
    grep -oE '\]\([^)h][^)]*\)' README.md | tr -d '()]' | while read -r path; do
        [ -e "$path" ] || { echo "README.md names $path" && exit 1; }
    done
}

make -s BUILD="$build_name" DESTDIR="$tree" install >"$scratch/install" 2>&1 || cat "$scratch/install"

check "files it names exist" examples_exist
for target in demo check; do
    check "make $target is what it offers" grep -qx "make $target" README.md
done
check "grokd starts" start_grokd
check "grokctl's commands" type_in "grokctl status"
check "grokctl's answer" has_answer "grokctl status"
check "answers in a form" type_in "--regex"
case $build_name in
*/asan) skip "the C program" "a library with sanitizers wants a program with sanitizers" ;;
*) check "the C program" answers "ask.c" ;;
esac
check "the Python program" answers "ask.py"
if ! command -v go >/dev/null; then
    skip "the Go program" "no Go on this machine and none installed from Debian"
elif ! (cd tests/interop/go && go mod download) >/dev/null 2>&1; then
    skip "the Go program" "Go's modules can't be downloaded"
else
    check "the Go program" answers "protoc-gen-go"
fi
check "grokd stops" stop_grokd
finish
