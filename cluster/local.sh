#!/usr/bin/env bash
# A real Ray cluster on this machine with token authentication; its dashboard listens on loopback alone.
#   cluster/local.sh start [CPUS]    then: export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 RAY_AUTH_MODE=token
#   cluster/local.sh stop            stops what it started, and no other Ray of this machine
set -euo pipefail

dashboard_port=${DASHBOARD_PORT:-8265}   # EDIT: other ports where these are taken
port=${RAY_PORT:-6379}
agent_port=${AGENT_PORT:-52366}          # Ray's 52365 may be taken by another cluster on this machine
client_port=${CLIENT_PORT:-10001}
state=${STATE_DIR:-/tmp/taudl-local-$(id -u)}   # short: Ray's sockets lie below it, and their paths must stay under 107 bytes

export RAY_AUTH_MODE=token               # a cluster without a token runs anybody's code
export RAY_USAGE_STATS_ENABLED=0
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=5   # README.md says why
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${DRAIN_S:-10}
bin=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
[ -x "$bin/ray" ] && export PATH="$bin:$PATH"   # jobs say `python`
unset RAY_ADDRESS

running() {   # what was started, and not another process that got its number
  [ -f "$state/pid" ] || return 1
  [[ "$(tr '\0' ' ' 2> /dev/null < "/proc/$(cat "$state/pid")/cmdline")" == *"start --head --block "*"--temp-dir $state "* ]]
}

answers() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

start() {
  if running; then echo "cluster/local.sh: already running (process $(cat "$state/pid"))" >&2; exit 1; fi
  if [ ! -f "$state/pid" ] && [ -n "$(ls -A "$state" 2> /dev/null)" ]; then   # stop deletes it
    echo "cluster/local.sh: $state holds something else; set STATE_DIR to a folder that is not there" >&2; exit 1
  fi
  (umask 077; mkdir -p "$state")
  if [ ! -O "$state" ]; then echo "cluster/local.sh: $state is somebody else's; set STATE_DIR" >&2; exit 1; fi
  for taken in "$dashboard_port" "$port" "$agent_port" "$client_port"; do
    if answers "$taken"; then
      echo "cluster/local.sh: port $taken is taken; set DASHBOARD_PORT, RAY_PORT, AGENT_PORT and CLIENT_PORT to free ones" >&2
      exit 1
    fi
  done
  [ -n "${RAY_AUTH_TOKEN:-}" ] || [ -f "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ] || ray get-auth-token --generate > /dev/null
  setsid nohup ray start --head --block --port "$port" --num-cpus "$1" --temp-dir "$state" --disable-usage-stats \
    --ray-client-server-port "$client_port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" \
    --dashboard-agent-listen-port "$agent_port" > "$state/log" 2>&1 < /dev/null &
  echo $! > "$state/pid"
  for _ in $(seq 60); do
    sleep 1
    running || break
    if answers "$dashboard_port" && answers "$agent_port"; then
      echo "a Ray cluster with $1 CPUs is up; its log is $state/log. Now:"
      echo "  export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port RAY_AUTH_MODE=token"
      exit 0
    fi
  done
  tail -5 "$state/log" >&2
  running && kill "$(cat "$state/pid")"
  echo "cluster/local.sh: the cluster did not come up in a minute; $state/log says more" >&2
  exit 1
}

stop() {
  if ! running; then echo "cluster/local.sh: no cluster of mine is running" >&2; exit 1; fi
  pid=$(cat "$state/pid")
  kill "$pid"
  for _ in $(seq 60); do
    if ! running; then rm -rf "$state"; exit 0; fi
    sleep 0.5
  done
  kill -9 -- "-$pid"   # its whole session
  rm -rf "$state"
}

case ${1:-} in
  start) start "${2:-$(nproc)}" ;;
  stop) stop ;;
  *) echo "usage: cluster/local.sh start [CPUS] | stop" >&2; exit 2 ;;
esac
