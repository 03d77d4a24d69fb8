#!/usr/bin/env bash
# Tests marked gpu: two workers for each attention backend, with decode graphs and without, and one for what has no
# backend, all at once; the models are tiny, and each worker compiles or loads its own kernels.
set -uo pipefail
out=$1 arch=${2:-llama}
logs=$(mktemp -d)
trap 'cat "$logs"/*.log >"$out/tests.log"; rm -r "$logs"' EXIT
declare -A running

start() {  # start NAME KEYWORDS WORKERS
    "${PYTHON:-python3}" -m pytest -m gpu tests/gpu --arch "$arch" -k "$2" -n "$3" -q -p no:cacheprovider >"$logs/$1.log" 2>&1 &
    running[$1]=$!
}

for backend in flashinfer triton; do
    for graphs in eager graphs; do
        start "$backend-$graphs" "$backend and $graphs" 2
    done
done
start training "not flashinfer and not triton" 1
failed=0
for name in "${!running[@]}"; do
    wait "${running[$name]}" || failed=$((failed + 1))
    echo "-- $name"
    tail -n 25 "$logs/$name.log"
done
exit "$failed"
