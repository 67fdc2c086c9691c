# Programs that outlive the script that starts them. Sourced by bootstrap.sh and start_all.sh.
#
#   start NAME COMMAND…    runs it in the background: .run/NAME.pid, .run/log/NAME.log; harmless if it runs
#   running NAME           true if what .run/NAME.pid names is still that very process
#   stop NAME              SIGTERM, then SIGKILL; harmless if it does not run
#   serve NAME URL COMMAND…   start, and wait until URL answers
#   await WHAT SECONDS COMMAND…

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run=$root/.run
profile=${PROFILE:-debug}
bin=${CARGO_TARGET_DIR:-$root/target}/$profile

# The same variables that the programs read.
export BISMUTH_ZOOKEEPER=${BISMUTH_ZOOKEEPER:-127.0.0.1:2181}
export BISMUTH_ZOOKEEPER_ENV=${BISMUTH_ZOOKEEPER_ENV:-default}
export BISMUTH_SVCPROVIDER_TOKEN_FILE=${BISMUTH_SVCPROVIDER_TOKEN_FILE:-$run/services/operator.token}
own_containerd=$run/containerd/containerd.sock

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() { if ((EUID)); then sudo --preserve-env "$@"; else "$@"; fi; }

# When the process started, in clock ticks since boot: field 22 of proc(5)'s stat. With the pid it names
# one process for ever.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -ra stat <<<"${stat##*) }"
    echo "${stat[19]}"
}

running() {
    local pid time
    read -r pid time 2>/dev/null <"$run/$1.pid" || return 1
    [[ $(start_time "$pid") == "$time" ]]
}

start() {
    local name=$1 pid
    shift
    running "$name" && return
    mkdir -p "$run/log"
    # The shell writes its own pid, then becomes the program.
    as_root setsid --fork sh -c 'echo $$ >"$0"; exec "$@"' "$run/$name.pid.new" "$@" \
        >>"$run/log/$name.log" 2>&1 </dev/null
    await "the pid of $name" 10 test -s "$run/$name.pid.new"
    pid=$(<"$run/$name.pid.new")
    echo "$pid $(start_time "$pid" || echo gone)" >"$run/$name.pid"
    as_root rm -f "$run/$name.pid.new"
}

stop() {
    local name=$1 pid
    if running "$name"; then
        read -r pid _ <"$run/$name.pid"
        say "Stopping $name (pid $pid)"
        as_root kill -TERM "$pid"
        await_quietly 40 stopped "$name" || as_root kill -KILL "$pid" || true
        await "the end of $name" 10 stopped "$name"
    fi
    rm -f "$run/$name.pid"
}

stopped() { ! running "$1"; }

await_quietly() {
    local tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        ((tries-- > 0)) || return 1
        sleep 0.1
    done
}

await() {
    local what=$1 seconds=$2
    shift 2
    await_quietly "$seconds" "$@" || die "waited $seconds s for $what in vain; logs are in $run/log"
}

# start, await_service. A process that was killed a moment ago may still look alive: if it ends meanwhile, it is started anew.
serve() {
    local name=$1 url=$2
    local answers=(curl --fail --silent "$url")
    shift 2
    start "$name" "$@"
    await_quietly 60 answers_or_died "$name" "${answers[@]}" || true
    start "$name" "$@"
    await_service "$name" "${answers[@]}"
}

# A server program that is awaited: gives up at once, with the end of its log, when it has died.
await_service() {
    local name=$1
    shift
    await_quietly 60 answers_or_died "$name" "$@" || die "$name does not answer; see $run/log/$name.log"
    "$@" >/dev/null 2>&1 || { tail -n 20 "$run/log/$name.log" >&2; die "$name died; see $run/log/$name.log"; }
}

answers_or_died() {
    local name=$1
    shift
    "$@" || stopped "$name"
}

# Does any of the ZooKeeper servers say that it serves?
zookeeper_answers() {
    local server answer
    for server in ${BISMUTH_ZOOKEEPER//,/ }; do
        answer=$(timeout 2 bash -c "exec 3<>/dev/tcp/${server%:*}/${server##*:} && echo srvr >&3 && cat <&3" 2>/dev/null) || true
        [[ $answer == *"Mode: "* ]] && return
    done
    return 1
}

containerd_answers() { as_root timeout 5 ctr --address "$1" version; }

# Ours if we have started one, else the machine's.
containerd_socket() {
    if running containerd; then echo "$own_containerd"; else echo "${BISMUTH_CONTAINERD:-/run/containerd/containerd.sock}"; fi
}

# Where that one keeps images, whose disk must not fill up.
containerd_root() {
    if running containerd; then echo "$run/containerd/root"; else echo "${BISMUTH_CONTAINERD_ROOT:-/var/lib/containerd}"; fi
}
