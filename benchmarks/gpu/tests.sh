#!/usr/bin/env bash
# Tests marked gpu: one process for each attention backend, with decode graphs and without, all at once; the models are
# tiny, and each process compiles or loads its own kernels.
set -uo pipefail
out=$1
logs=$(mktemp -d)
trap 'cat "$logs"/*.log >"$out/tests.log"; rm -r "$logs"' EXIT
declare -A running
for backend in flashinfer triton; do
    for graphs in eager graphs; do
        name=$backend-$graphs
        "${PYTHON:-python3}" -m pytest -m gpu tests/gpu -k "$backend and $graphs" -q -p no:cacheprovider \
            >"$logs/$name.log" 2>&1 &
        running[$name]=$!
    done
done
failed=0
for name in "${!running[@]}"; do
    wait "${running[$name]}" || failed=$((failed + 1))
    echo "-- $name"
    tail -n 25 "$logs/$name.log"
done
exit "$failed"
