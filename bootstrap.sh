#!/usr/bin/env bash
# Makes this machine a Bismuth node: packages, ZooKeeper, containerd, a build, the environment, this node.
# Again is harmless: each step looks first. State and logs are below .run/.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/services.sh

packages() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
    # xtask knows all packages, but cannot be linked without a C compiler.
    if ! command -v cc >/dev/null; then
        command -v apt-get >/dev/null || die "a C compiler is missing (cc)"
        as_root apt-get update --quiet
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends build-essential
    fi
    cargo xtask setup
}

zookeeper() {
    zookeeper_answers && return
    [[ $BISMUTH_ZOOKEEPER == 127.0.0.1:2181 ]] || die "no ZooKeeper answers at $BISMUTH_ZOOKEEPER"
    say "Starting ZooKeeper at $BISMUTH_ZOOKEEPER"
    mkdir -p "$run/zookeeper/conf" "$run/zookeeper/data"
    cat >"$run/zookeeper/conf/zoo.cfg" <<-EOF
		tickTime=2000
		dataDir=$run/zookeeper/data
		clientPortAddress=127.0.0.1
		clientPort=2181
		admin.enableServer=false
		autopurge.purgeInterval=24
	EOF
    cat >"$run/zookeeper/conf/log4j.properties" <<-EOF
		log4j.rootLogger=INFO, OUT
		log4j.appender.OUT=org.apache.log4j.ConsoleAppender
		log4j.appender.OUT.layout=org.apache.log4j.PatternLayout
		log4j.appender.OUT.layout.ConversionPattern=%d{ISO8601} %p %c{1} %m%n
	EOF
    local jars=/usr/share/java
    start zookeeper java -Xmx256m -XX:+UseSerialGC \
        -cp "$run/zookeeper/conf:$jars/zookeeper.jar:$jars/slf4j-log4j12.jar:$jars/log4j-1.2.jar" \
        org.apache.zookeeper.server.quorum.QuorumPeerMain "$run/zookeeper/conf/zoo.cfg"
    await_service zookeeper zookeeper_answers
}

containerd() {
    containerd_answers "$(containerd_socket)" >/dev/null 2>&1 && return
    say "Starting containerd at $own_containerd"
    mkdir -p "$run/containerd"
    cat >"$run/containerd/config.toml" <<-EOF
		version = 2
		root = "$run/containerd/root"
		state = "$run/containerd/state"
		disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
		[grpc]
		  address = "$own_containerd"
	EOF
    start containerd containerd --config "$run/containerd/config.toml"
    await_service containerd containerd_answers "$own_containerd"
}

build() {
    local minutes=4
    [[ $profile == release ]] && minutes=12
    if [[ -x $bin/svcprovider ]]; then
        say "Building the programs ($profile): what has changed"
    else
        say "Building the programs ($profile). The first time this takes about $minutes minutes on two cores"
    fi
    if [[ $profile == release ]]; then cargo xtask build --release; else cargo xtask build; fi
}

environment() {
    "$bin/bismuthctl" bootstrap
    "$bin/bismuthctl" provision 127.0.0.1
}

packages
build
zookeeper
containerd
environment
say "Ready: environment $BISMUTH_ZOOKEEPER_ENV at $BISMUTH_ZOOKEEPER, containerd at $(containerd_socket)"
