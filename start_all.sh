#!/usr/bin/env bash
# The one command: makes the machine ready, starts every daemon, and invokes two demonstration functions.
#
#   ./start_all.sh         stays in the foreground; Ctrl-C ends everything
#   ./start_all.sh -d      leaves it running
#   ./start_all.sh stop    ends what an earlier call started
#
# PROFILE=release uses an optimised build. State and logs are below .run/.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/services.sh

image=docker.io/library/bismuth-demo:latest
# Unix sockets are below it, so its path must be short.
state=$run/node
((${#state} <= 40)) || state=/var/tmp/bismuth-$(cksum <<<"$run" | cut -d' ' -f1)

# Daemons first, then their containers, then containerd and ZooKeeper.
stop_all() {
    local daemon
    for daemon in bismuthfe bismuth-api bismuthd svcprovider; do stop "$daemon"; done
    if containerd_answers "$(containerd_socket)" >/dev/null 2>&1; then end_containers; fi
    stop containerd
    stop zookeeper
}

# bismuthd leaves containers running when it ends, so that it can be upgraded under them.
end_containers() {
    local ctr=(as_root ctr --address "$(containerd_socket)" --namespace bismuth) id
    for id in $("${ctr[@]}" tasks list --quiet); do
        "${ctr[@]}" tasks delete --force "$id" >/dev/null 2>&1 || true
    done
    # From the deepest: each container's root file system and its namespaces, then the state directory itself.
    findmnt --list --noheadings --output TARGET | grep -E "^$state(/|$)" | tac | while read -r mount; do
        as_root umount --lazy "$mount"
    done || true
}

start_daemons() {
    local socket
    socket=$(containerd_socket)
    say "Starting bismuthd, svcprovider, bismuth-api, bismuthfe"
    serve bismuthd http://127.0.0.1:8011/readyz "$bin/bismuthd" --node-ip 127.0.0.1 --containerd "$socket" \
        --containerd-root "$(containerd_root)" --state-dir "$state" --init "$bin/static/bismuth-init" \
        --svcprovider-socket "$state/svcprovider.sock"
    serve svcprovider http://127.0.0.1:8012/readyz "$bin/svcprovider" --node-ip 127.0.0.1 --data-dir "$run/services" \
        --socket "$state/svcprovider.sock" --operator-token-file "$BISMUTH_SVCPROVIDER_TOKEN_FILE" \
        --master-key-file "$run/keys/master.keys" --create-master-key
    serve bismuth-api http://127.0.0.1:8002/readyz "$bin/bismuth-api"
    serve bismuthfe http://127.0.0.1:8010/readyz "$bin/bismuthfe" --snapshot "$run/bismuthfe.snapshot"
}

import_image() {
    local archive=$run/demo.tar
    cargo xtask demo-image "$archive"
    as_root "$bin/bismuthctl" image import "$archive" --containerd "$(containerd_socket)" >/dev/null
}

# Creates the demonstration function of that name unless it exists; sets $id.
function_id() {
    local name=$1 mode=$2
    id=$(cat "$run/demo-$name.id" 2>/dev/null || true)
    [[ $id ]] && "$bin/bismuthctl" get-function "$id" >/dev/null 2>&1 && return
    id=$("$bin/bismuthctl" create-function "$image" "$mode")
    "$bin/bismuthctl" add-backend "$id" 127.0.0.1 >/dev/null
    echo "$id" >"$run/demo-$name.id"
}

invoke() {
    local url=http://127.0.0.1:8000/invoke/$1
    await "an answer from $url" 30 curl --fail --silent --max-time 10 "$url"
    echo "\$ curl $url"
    curl --fail --silent --show-error --max-time 10 "$url"
}

# Processor time is that of what this script has waited for: the build, not the daemons.
report_time() {
    local stat
    stat=$(<"/proc/$$/stat")
    read -ra stat <<<"${stat##*) }"
    # Fields 16 and 17 of proc(5)'s stat, in clock ticks.
    say "Two answers after $SECONDS s, with $(((stat[13] + stat[14]) / $(getconf CLK_TCK))) s of processor time"
}

wait_in_foreground() {
    trap stop_all EXIT
    trap exit INT TERM
    say "Ctrl-C ends it. Logs are in $run/log"
    while running svcprovider && running bismuthd && running bismuth-api && running bismuthfe; do sleep 1; done
    die "a daemon has ended; see $run/log"
}

case ${1:-} in
    stop) stop_all; exit ;;
    "" | -d) ;;
    *) die "usage: ./start_all.sh [-d|stop]" ;;
esac

./bootstrap.sh
start_daemons
import_image
function_id exec "exec:/bin/hello"
exec_id=$id
function_id server "server:8000:/usr/sbin/httpd -f -p 8000 -h /srv"
invoke "$exec_id"
invoke "$id"
report_time
[[ ${1:-} == -d ]] || wait_in_foreground
say "Running. ./start_all.sh stop ends it; logs are in $run/log"
