#!/usr/bin/env bash
# A local cluster, for people who look in scripts/ first: the same as `kv cluster ...`.
#   scripts/cluster.sh up
#   scripts/cluster.sh kill n1
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -x "$root/.venv/bin/kv" ]; then
    exec "$root/.venv/bin/kv" cluster "$@"
fi
if command -v kv >/dev/null; then
    exec kv cluster "$@"
fi
echo "cluster.sh: kv is not installed; run: make -C $root setup" >&2
exit 2
