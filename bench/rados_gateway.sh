#!/usr/bin/env bash
# A radosgw (S3) in front of the Ceph that `ceph_one_node.sh up DIR` began, on loopback, with one user and one bucket.
# For `shared_storage.py` and the contract suite; not for data that anybody wants to keep.
#   bench/rados_gateway.sh up DIR [PORT]     prints the file of settings that an agent takes (models.shared.s3)
#   bench/rados_gateway.sh down DIR          ends it by process id; before `ceph_one_node.sh down DIR`
# Needs root, and Debian's radosgw.
set -euo pipefail
what=${1:?up or down}; dir=$(realpath -m "${2:?folder}"); port=${3:-17480}
conf=$dir/ceph.conf  # without authentication there is no secure mode, which radosgw alone insists on
if [ "$what" = down ]; then
  pid=$(cat "$dir/rgw.pid" 2>/dev/null) || exit 0
  kill "$pid" 2>/dev/null || exit 0
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || exit 0; sleep 0.1; done
  kill -9 "$pid"
  exit 0
fi
mkdir -p "$dir/rgw"
args=(-c "$conf" -n client.rgw --rgw-data="$dir/rgw" --ms-mon-client-mode=crc --osd-pool-default-pg-num=4 --osd-pool-default-pgp-num=4)
nice -n 5 setsid radosgw "${args[@]}" -f --rgw-frontends="beast endpoint=127.0.0.1:$port tcp_nodelay=1" \
  >>"$dir/rgw.log" 2>&1 & echo $! >"$dir/rgw.pid"
ready() { python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1).close()" 2>/dev/null; }
for _ in $(seq 120); do ready && break; sleep 0.5; done
ready || { echo "radosgw does not answer: $dir/rgw.log says why" >&2; exit 1; }
access=bridgetest; secret=$(head -c 24 /dev/urandom | base64 | tr '+/' 'ab')
timeout 120 radosgw-admin "${args[@]}" user create --uid=bridge --display-name=bridge \
  --access-key="$access" --secret-key="$secret" >>"$dir/log" 2>&1
(umask 077; printf '{"endpoint": "http://127.0.0.1:%s", "bucket": "models", "access_key": "%s", "secret_key": "%s"}\n' \
  "$port" "$access" "$secret" >"$dir/s3.json")
echo "$dir/s3.json"
