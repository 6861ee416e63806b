#!/usr/bin/env bash
# The MLflow server: a database behind it, artifacts in a folder or a bucket, and the names it may be called by.
#   MLFLOW_BACKEND_STORE_URI=... ARTIFACTS=... cluster/mlflow.sh
# Passwords belong neither into this file nor on a command line, where everybody on the machine reads them: put
#   MLFLOW_BACKEND_STORE_URI='postgresql://USER:PASSWORD@HOST/DATABASE'
# into a file that only you can read (umask 077) and name it in ENV_FILE. A bucket's credentials come from the machine's role.
set -euo pipefail

env_file=${ENV_FILE:-}
listen=${LISTEN:-127.0.0.1}       # it has no login: on other addresses whoever reaches it reads and writes all (see README.md)
port=${PORT:-5000}
names=${NAMES:-localhost}         # EDIT: by which names others call it, comma-separated; MLflow answers 403 to any other but private addresses
artifacts=${ARTIFACTS:-}          # EDIT: /shared/mlartifacts or s3://BUCKET/mlflow; the server passes them through, clients need no key
workers=${WORKERS:-2}

if [ -n "$env_file" ]; then
  if [ -n "$(find "$env_file" -perm /077)" ]; then
    echo "cluster/mlflow.sh: others may read $env_file, which holds a password: chmod 600 $env_file" >&2
    exit 1
  fi
  set -a
  # shellcheck disable=SC1090
  source "$env_file"
  set +a
fi
MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-}
MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI%$'\n'}   # a Secret made of a file ends as the file does
if [ -z "$MLFLOW_BACKEND_STORE_URI" ] || [ -z "$artifacts" ]; then
  echo "usage: MLFLOW_BACKEND_STORE_URI=postgresql://... ARTIFACTS=FOLDER-or-BUCKET cluster/mlflow.sh; see its first lines" >&2
  exit 2
fi
case $MLFLOW_BACKEND_STORE_URI in
  postgresql* | mysql* | mssql*) ;;
  sqlite*) echo "cluster/mlflow.sh: SQLite serves one machine and few runs at a time" >&2 ;;
  *) echo "cluster/mlflow.sh: MLFLOW_BACKEND_STORE_URI names no database" >&2; exit 2 ;;
esac

allowed=
for name in ${names//,/ } localhost 127.0.0.1; do
  allowed="$allowed,$name,$name:*"   # with and without a port: MLflow compares both
done
bin=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
[ -x "$bin/mlflow" ] && export PATH="$bin:$PATH"
export MLFLOW_BACKEND_STORE_URI MLFLOW_DISABLE_TELEMETRY=true   # mlflow reads the address from there
exec mlflow server --host "$listen" --port "$port" --workers "$workers" --artifacts-destination "$artifacts" --allowed-hosts "${allowed#,}"
