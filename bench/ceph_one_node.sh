#!/usr/bin/env bash
# A real Ceph of one node on loopback, without systemd and a network: monitor, manager, one OSD on a sparse file,
# a metadata server, and its CephFS mounted by ceph-fuse. For `shared_storage.py` and the contract suite; not for
# data that anybody wants to keep: one copy of everything, no authentication.
#   bench/ceph_one_node.sh up DIR [GIB]     prints where CephFS is mounted; the OSD's file is GIB large (8)
#   bench/ceph_one_node.sh cold DIR         mounts it anew, the OSD's cache dropped: what is read next comes from its disk
#   bench/ceph_one_node.sh second DIR       mounts it once more, as a second machine would; prints where
#   bench/ceph_one_node.sh down DIR         unmounts, ends what it started by process id, and removes DIR
# Needs root, /dev/fuse, and Debian's ceph-mon ceph-mgr ceph-osd ceph-mds ceph-common ceph-fuse.
set -euo pipefail
what=${1:?up or down}; dir=$(realpath -m "${2:?folder}"); gib=${3:-8}; port=${CEPH_PORT:-16789}
conf=$dir/ceph.conf
c() { timeout 60 ceph -c "$conf" "$@" >>"$dir/log" 2>&1; }
begin() { # NAME COMMAND...: in the background, its process id kept
  local name=$1; shift
  nice -n 5 setsid "$@" >>"$dir/$name.log" 2>&1 & echo $! >"$dir/$name.pid"
}

mount_it() { # NAME WHERE
  mkdir -p "$2"
  begin "$1" ceph-fuse -f -c "$conf" "$2"
  for _ in $(seq 120); do mountpoint -q "$2" && return; sleep 0.25; done
  echo "CephFS is not mounted: $dir/*.log say why" >&2; exit 1
}

if [ "$what" = cold ]; then
  for _ in $(seq 50); do umount "$dir/cephfs" 2>>"$dir/log" && break; sleep 0.2; done  # a close may be on its way
  ! mountpoint -q "$dir/cephfs" || { echo "$dir/cephfs is in use" >&2; exit 1; }
  for _ in $(seq 100); do kill -0 "$(cat "$dir/fuse.pid")" 2>/dev/null || break; sleep 0.1; done
  c tell osd.0 cache drop
  mount_it fuse "$dir/cephfs"
  exit
fi
if [ "$what" = second ]; then
  mount_it fuse2 "$dir/cephfs2"
  echo "$dir/cephfs2"
  exit
fi
if [ "$what" = down ]; then
  for at in cephfs cephfs2; do mountpoint -q "$dir/$at" && umount -l "$dir/$at"; done
  for name in fuse fuse2 mds osd mgr mon; do
    pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
  for at in cephfs cephfs2; do
    mountpoint -q "$dir/$at" && { echo "$dir/$at is still mounted: $dir stays" >&2; exit 1; }
  done
  rm -rf --one-file-system "$dir"
  exit
fi

[ ! -e "$conf" ] || { echo "$dir is in use: $0 down $dir" >&2; exit 1; }
mkdir -p "$dir"/{mon,mgr/ceph-x,osd,mds/ceph-a,cephfs,run}
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >"$conf" <<EOF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$port/0
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block size = $((gib << 30))
osd memory target = 939524096
run dir = $dir/run
admin socket = $dir/run/\$cluster-\$name.\$pid.asok
log file = /dev/null
mon data = $dir/mon
mgr data = $dir/mgr/ceph-x
osd data = $dir/osd
mds data = $dir/mds/ceph-a
pid file =
crash dir = $dir/run
EOF
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$port]" "$dir/monmap" >>"$dir/log" 2>&1
ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap" >>"$dir/log" 2>&1
begin mon ceph-mon -c "$conf" -f -i a
c -s
begin mgr ceph-mgr -c "$conf" -f -i x
osd=$(cat /proc/sys/kernel/random/uuid)
c osd new "$osd"
ceph-osd -c "$conf" --mkfs -i 0 --osd-uuid "$osd" >>"$dir/log" 2>&1
begin osd ceph-osd -c "$conf" -f -i 0
for _ in $(seq 120); do timeout 20 ceph -c "$conf" osd stat 2>/dev/null | grep -q " 1 up" && break; sleep 0.5; done
c osd pool create meta 8; c osd pool create data 16; c fs new models meta data
begin mds ceph-mds -c "$conf" -f -i a
for _ in $(seq 120); do timeout 20 ceph -c "$conf" mds stat 2>/dev/null | grep -q "up:active" && break; sleep 0.5; done
mount_it fuse "$dir/cephfs"
echo "$dir/cephfs"
