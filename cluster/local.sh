#!/usr/bin/env bash
# A real Ray cluster on this machine with token authentication; its dashboard listens on loopback alone.
#   cluster/local.sh start [CPUS]    then: export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 RAY_AUTH_MODE=token
#   cluster/local.sh stop
set -euo pipefail

export RAY_AUTH_MODE=token            # a cluster without a token runs anybody's code
export RAY_USAGE_STATS_ENABLED=0
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=5   # README.md says why
ray=$(dirname "$0")/../.venv/bin/ray
[ -x "$ray" ] || ray=ray
dashboard_port=${DASHBOARD_PORT:-8265}   # EDIT: another port when this one is taken
port=${RAY_PORT:-6379}
agent_port=${AGENT_PORT:-52366}          # Ray's 52365 may be taken by the private cluster of a running `taudl train`

case ${1:-} in
  start)
    [ -n "${RAY_AUTH_TOKEN:-}" ] || [ -f "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ] || "$ray" get-auth-token --generate > /dev/null
    "$ray" start --head --port "$port" --num-cpus "${2:-$(nproc)}" \
      --dashboard-host 127.0.0.1 --dashboard-port "$dashboard_port" --dashboard-agent-listen-port "$agent_port"
    ;;
  stop)
    "$ray" stop
    ;;
  *)
    echo "usage: cluster/local.sh start [CPUS] | stop" >&2
    exit 2
    ;;
esac
