#!/usr/bin/env bash
# Runs `ray start --block` on a machine that the cloud may take back, and passes the cloud's notice on: Ray then drains the node, so that
# workers save first. Nothing in Ray asks for these notices. aws.yaml and gcp.yaml start workers with it.
#   cluster/spot_notice.sh aws|gcp ray start --address HEAD:6379 --block
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: cluster/spot_notice.sh aws|gcp COMMAND..." >&2; exit 2; }
cloud=$1
shift
case $cloud in
  aws) metadata=http://169.254.169.254 drain_s=100 ;;              # the notice comes two minutes before the end
  gcp) metadata=http://metadata.google.internal drain_s=25 ;;      # and half a minute here
  *) echo "cluster/spot_notice.sh: found $cloud, expected aws or gcp" >&2; exit 2 ;;
esac
metadata=${METADATA:-$metadata}
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-$drain_s}

ask() { wget --quiet --timeout=2 --tries=1 --output-document=- "$@"; }

noticed() {
  local token
  if [ "$cloud" = aws ]; then   # 404 until there is a notice
    token=$(ask --method=PUT --header='X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
    ask --header="X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action" > /dev/null
  else
    [ "$(ask --header='Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted")" = TRUE ]
  fi
}

"$@" &
ray=$!
trap 'kill -TERM $ray' TERM
while kill -0 "$ray" 2> /dev/null; do
  if noticed; then
    echo "$(date --utc +%FT%TZ) notice of the cloud: this node is drained for $RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S s"
    kill -TERM "$ray"
    break
  fi
  sleep "${INTERVAL_S:-2}"
done
code=0
wait "$ray" || code=$?
exit "$code"
