#!/usr/bin/env bash
# Runs a command with a container engine and the base image at hand: with_engine.sh COMMAND [ARGUMENT...]
#
# In: any machine. Out: the command's exit status, run with OCI_ENGINE (docker or podman) set and, where needed, DOCKER_HOST and PATH;
# or status 77 and the reason on stderr, where no engine is to be had.
#
# An engine that runs and can pull the base image is used as it is. Otherwise root on Debian gets an engine of its own: Debian's docker.io
# on a socket and a data folder of its own, and in place of the base image one that debootstrap makes. Such an image is good for tests and
# never for a registry; it and all that is built on it carry the label digits.base=stand-in, and they never enter another engine.
# The first run downloads about 250 MB and takes minutes; OCI_CACHE (default ~/.cache/digits-oci, about 3 GB) makes the next ones quick.
set -euo pipefail

BASE=${OCI_BASE_IMAGE:-python:3.11-slim}
CACHE=${OCI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/digits-oci}
SOCKET_DIR=/run/digits-oci

say() { echo "with_engine: $*" >&2; }
skip() { say "skipped: $*"; exit 77; }

[ $# -gt 0 ] || { say "no command was given; usage: with_engine.sh COMMAND [ARGUMENT...]"; exit 2; }

has_base() { "$1" image inspect "$BASE" >/dev/null 2>&1 || timeout 300 "$1" pull --quiet "$BASE" >/dev/null 2>&1; }

# 1. An engine that is already there. A client without a server fails `info`, and BentoML needs buildx or a server before version 23.
for engine in docker podman; do
  if command -v "$engine" >/dev/null && timeout 30 "$engine" info >/dev/null 2>&1; then
    if has_base "$engine"; then
      say "using the $engine that is running here"
      export OCI_ENGINE=$engine
      exec "$@"
    fi
    say "$engine runs here but has no $BASE and cannot pull it"
  fi
done

# 2. One of our own.
[ "$(id -u)" = 0 ] || skip "no running docker or podman has $BASE, and starting an engine needs root"
command -v apt-get >/dev/null || skip "no running docker or podman has $BASE, and without apt-get none can be installed"
if [ ! -x /usr/sbin/dockerd ] || [ ! -x /usr/sbin/debootstrap ]; then
  say "installing docker.io and debootstrap"
  log=$(mktemp)
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io debootstrap; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    skip "docker.io and debootstrap cannot be installed"
  fi
  rm -f "$log"
fi
export PATH=/usr/bin:$PATH  # Debian's client before any other: a newer one asks for the buildx plugin

mkdir -p "$CACHE" "$SOCKET_DIR"
exec 9>"$SOCKET_DIR/lock"
flock 9 || skip "the lock $SOCKET_DIR/lock cannot be taken"
export DOCKER_HOST=unix://$SOCKET_DIR/docker.sock OCI_ENGINE=docker
# Nothing of the machine's network is touched: builds and containers use the host's network as it is.
/usr/sbin/dockerd --host "$DOCKER_HOST" --data-root "$CACHE/docker" --exec-root "$SOCKET_DIR/exec" --pidfile "$SOCKET_DIR/pid" \
  --iptables=false --ip6tables=false --bridge=none >"$CACHE/dockerd.log" 2>&1 9>&- &
daemon=$!
# shellcheck disable=SC2317  # called by the trap
stop() { kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null; rm -f "$SOCKET_DIR/docker.sock"; }
trap stop EXIT
for _ in $(seq 150); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$daemon" 2>/dev/null || break
  sleep 0.2
done
docker info >/dev/null 2>&1 || { tail -n 5 "$CACHE/dockerd.log" >&2; skip "dockerd does not start here (its log: $CACHE/dockerd.log)"; }

if ! has_base docker; then
  say "no registry answers: making a stand-in for $BASE"
  root=$(mktemp -d "$CACHE/base.XXXXXX")
  trap 'rm -rf "$root"; stop' EXIT
  if ! debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$root" >"$CACHE/debootstrap.log" 2>&1; then
    tail -n 5 "$CACHE/debootstrap.log" >&2
    skip "debootstrap cannot make a base (its log: $CACHE/debootstrap.log)"
  fi
  # As the official image: pip installs into the system's Python, nothing of apt's, no documentation, no languages.
  rm -rf "$root"/usr/lib/python3*/EXTERNALLY-MANAGED "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/{doc,man,info,locale,lintian} "$root"/var/log/*
  ln -sf python3 "$root/usr/bin/python"
  : >"$root/etc/resolv.conf"
  echo localhost >"$root/etc/hostname"
  # The build downloads through the machine's own certificates; uv knows no other way to name them.
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  tar -C "$root" -c . | docker import --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
    --change 'LABEL digits.base=stand-in' --change 'CMD ["python3"]' - "$BASE" >/dev/null
  rm -rf "$root"
  trap stop EXIT
fi

status=0
"$@" 9>&- || status=$?
# One image for the next run's cache is enough.
docker container prune --force >/dev/null 2>&1 || true
docker image prune --force >/dev/null 2>&1 || true
docker builder prune --force --keep-storage 2GB >/dev/null 2>&1 || true
exit "$status"
