# shellcheck shell=bash disable=SC2154
# For scripts that need a running grokd: source it after tap.sh.
#
# start_grokd OPTION... serves on $socket and waits until it answers; stop_grokd ends it with
# SIGTERM and fails where it does not exit by itself with status 0. The log is in $grokd_log.

socket=$scratch/grokd.sock
grokd_log=$scratch/grokd.log
grokd_pid=""
grokd_under=() # a program to run it under

start_grokd() {
    : >"$scratch/empty.conf"
    "${grokd_under[@]}" "$build/grokd" --config "$scratch/empty.conf" --socket "$socket" "$@" 2>"$grokd_log" &
    grokd_pid=$!
    # shellcheck disable=SC2064 # of the process started here
    trap "kill -9 $grokd_pid 2>/dev/null; rm -rf '$scratch'" EXIT
    for _ in $(seq 600); do
        if "$build/grokctl" --socket "$socket" status >/dev/null 2>&1; then
            return 0
        fi
        kill -0 "$grokd_pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "grokd does not answer:"
    cat "$grokd_log"
    return 1
}

stop_grokd() {
    local status
    kill -TERM "$grokd_pid" || return 1
    wait "$grokd_pid"
    status=$?
    grokd_pid=""
    [ "$status" = 0 ] || cat "$grokd_log"
    return "$status"
}
