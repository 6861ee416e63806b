#!/usr/bin/env bash
# A Slurm of one node in namespaces of its own: tests/cluster/slurm_node.sh FOLDER COMMAND...
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge. Nothing outside sees it, and nothing of it outlives the command.
set -euo pipefail

if [ "${SLURM_NODE_INSIDE:-}" != 1 ]; then
  SLURM_NODE_INSIDE=1 exec unshare --pid --fork --kill-child --net --mount --uts --mount-proc "$0" "$@"
fi

folder=$1
shift
export HOME=$folder/home
mkdir -p "$folder"/{spool,state} "$HOME"
hostname node1
ip link set lo up
ip link add eth9 type veth peer name eth8
ip address add 10.99.0.1/24 dev eth9
ip link set eth9 up
ip link set eth8 up
mount -t tmpfs tmpfs /run
mkdir /run/munge /run/lock
cp /etc/hosts "$folder/hosts"
echo "10.99.0.1 node1" >> "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

(umask 077; head -c 128 /dev/urandom > /run/munge/key)
chown -R munge: /run/munge
chmod 755 /run/munge
runuser -u munge -- munged --key-file /run/munge/key --socket /run/munge/munge.socket.2 --pid-file /run/munge/pid \
  --log-file /run/munge/log --seed-file /run/munge/seed

cat > "$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=node1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/munge.socket.2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MinJobAge=600
NodeName=node1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
END
export SLURM_CONF=$folder/slurm.conf
slurmctld
slurmd -N node1 || slurmd
for _ in $(seq 30); do
  [ "$(sinfo --noheader --format %t)" = idle ] && break
  sleep 1
done
"$@"
