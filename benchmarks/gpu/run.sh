#!/usr/bin/env bash
# The one command for an offline GPU machine: install the bundle, then smoke test, tests and benchmark.
#
#   bash benchmarks/gpu/run.sh [--bundle DIR] [--out DIR] [--commit SHA] [--arch llama|qwen3|qwen3_moe] [--seconds N]
#                              [--stages "kernels smoke tests bench keep"] [--policy pop] [--policy fastkv,...]
#   bash benchmarks/gpu/run.sh --rehearse [--arch ...] [--policy ...] [--out DIR]   # the same code on a CPU, no bundle
#
# Every stage has its own time limit; a stage that fails does not keep the next from running. The exit code is the number
# of stages that failed. DIR gets a handful of files: run.log, tests.log, workers.log, samples.jsonl, results.json.
set -uo pipefail
cd "$(dirname "$0")/../.."

bundle=.gpu-bundle out=build/gpu commit= arch=llama seconds=480 stages="kernels smoke tests bench keep" rehearse= policies=()
while [ $# -gt 0 ]; do
    case $1 in
        --bundle) bundle=$2; shift ;;
        --out) out=$2; shift ;;
        --commit) commit=$2; shift ;;
        --arch) arch=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --policy) policies+=(--policy "$2"); shift ;;
        --stages) stages=$2; shift ;;
        --rehearse) rehearse=yes ;;
        *) echo "unknown argument: $1" >&2; exit 64 ;;
    esac
    shift
done
mkdir -p "$out"
out=$(realpath "$out")
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
started=$SECONDS
: >"$out/run.log"
failed=0

stage() {  # stage NAME LIMIT COMMAND...
    local name=$1 limit=$2 begun=$SECONDS code
    shift 2
    echo "== $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$out/run.log"
    code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - begun)) s" | tee -a "$out/run.log"
    [ "$code" = 0 ] || failed=$((failed + 1))
}

left() { local rest=$((seconds - (SECONDS - started))); echo $((rest > 30 ? rest : 30)); }

if [ "$rehearse" ]; then
    stage bench 600 "$python" benchmarks/gpu/bench.py --out "$out" --arch "$arch" --profile rehearsal --seconds 590 \
        "${policies[@]}"
    exit "$failed"
fi

site=${SITE:-/tmp/sglang-speed-site}
[ -e "$site/env.sh" ] || stage install 120 "$python" benchmarks/gpu/install.py "$bundle" "$site"
. "$site/env.sh" || exit 1
for name in $stages; do
    case $name in
        # 32 compilers at a time: FlashInfer's take 2 GB each
        kernels) stage kernels 200 env MAX_JOBS=4 "$python" benchmarks/gpu/compile_kernels.py --work "$site/jit" --jobs 8 ;;
        # what was compiled here, for the next bundle
        keep) stage keep 60 "$python" benchmarks/gpu/compile_kernels.py --work "$site/jit" --variants 0 \
            --out "$out/kernels.tar.xz" ;;
        smoke) stage smoke 100 "$python" benchmarks/gpu/smoke.py --arch "$arch" ;;
        tests) stage tests 190 bash benchmarks/gpu/tests.sh "$out" "$arch" ;;
        bench) stage bench "$(($(left) + 20))" "$python" benchmarks/gpu/bench.py --out "$out" --arch "$arch" --seconds "$(left)" \
            ${commit:+--commit "$commit"} "${policies[@]}" ;;
    esac
done
grep "^== .*exit code" "$out/run.log"
exit "$failed"
