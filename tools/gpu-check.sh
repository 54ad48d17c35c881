#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: kernels against the CPU, then speed, PyTorch beside it.
#
#   tools/gpu-check.sh [--dry-run] [--quick] [--weights FILE --frames FOLDER] BINARY [OUTPUT-FOLDER]
#
# Needs the binary built with `--features cuda` and nothing else of this repository but
# tools/gpu-peers.py beside this script; without that, or without PyTorch, PyTorch is left out.
# --weights and --frames: a detector's weights and a folder of 1080p JPEGs, for whole streams from
# files to tracks; without them those are left out. tools/gpu-peers.py prints the table at the end.
# --dry-run runs what needs no GPU and says what would be run. What was printed lies in the output
# folder afterwards (by default ./gpu-check), summary.txt first.
set -uo pipefail

dry=0 quick=0 weights='' frames=''
while [[ ${1:-} == --* ]]; do
    case $1 in
    --dry-run) dry=1 ;;
    --quick) quick=1 ;;
    --weights) weights=${2:?--weights FILE}; shift ;;
    --frames) frames=${2:?--frames FOLDER}; shift ;;
    *) echo "gpu-check: no such option: $1" >&2; exit 2 ;;
    esac
    shift
done
binary=${1:?usage: gpu-check.sh [--dry-run] [--quick] BINARY [OUTPUT-FOLDER]}
out=${2:-gpu-check}
here=$(cd "$(dirname "$0")" && pwd)
[[ -x $binary ]] || { echo "gpu-check: $binary is no program" >&2; exit 2; }
mkdir -p "$out"
: > "$out/summary.txt"

# CUDA's libraries may lie in Python packages only.
wheels=$(python3 -c 'import nvidia,glob;print(":".join(d for p in nvidia.__path__ for d in glob.glob(p+"/*/lib")))' 2>/dev/null || true)
export LD_LIBRARY_PATH=${wheels:+$wheels:}/usr/local/cuda/lib64:/usr/local/nvidia/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

say() { echo "$*" | tee -a "$out/summary.txt"; }
failed=0
# step NAME COMMAND…: runs it with its output in NAME.txt, or says that it would.
step() {
    local name=$1 started=$SECONDS rc
    shift
    if ((dry)); then
        say "would run  $name: $*"
        return 0
    fi
    "$@" > "$out/$name.txt" 2> "$out/$name.log"
    rc=$?
    ((rc == 0)) || failed=$((failed + 1))
    say "$( ((rc == 0)) && echo ok || echo "FAIL $rc") $name, $((SECONDS - started)) s: $*"
}

say "date     $(date -u +%Y-%m-%dT%H:%M:%SZ)"
say "machine  $(uname -srm), $(nproc) CPUs"
say "binary   $("$binary" --version), sha256 $(sha256sum "$binary" | cut -c1-16)"
if command -v nvidia-smi > /dev/null; then
    nvidia-smi > "$out/nvidia-smi.txt" 2>&1
    say "GPU      $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)"
else
    say "GPU      nvidia-smi is not here"
fi

# What must hold with and without a GPU: the program starts, and knows whether there is one.
if "$binary" doctor --device-only --device cuda --kernel-cases 1 > "$out/device.txt" 2>&1; then
    say "device   usable"
else
    say "device   not usable: $(grep -m1 -iE 'FAIL|error' "$out/device.txt")"
    if ((!dry)); then
        say "nothing else can be run here"
        exit 1
    fi
fi

cases=50 seconds=3 many=600
((quick)) && cases=4 seconds=1 many=60
step kernels "$binary" doctor --device-only --device cuda --kernel-cases $cases
for precision in f32 f16 bf16; do
    # The share of the matrix limit is on the first line of this one, the rest in JSON for the table.
    step "limit-$precision" "$binary" bench --device cuda --precision $precision --network osnet-x0.25 --batch 1 --seconds 1
    training=()
    [[ $precision == f32 ]] && training=(--training)
    step "bench-$precision" "$binary" bench --device cuda --precision $precision --seconds $seconds --json "${training[@]}"
done
# What is chosen by measurement: the other ways of convolutions.
for way in columns implicit; do
    step "bench-bf16-$way" env MTMC_CUDA_CONVOLUTION=$way "$binary" bench --device cuda --precision bf16 --seconds $seconds --json
done
peers=0
if [[ -f $here/gpu-peers.py ]] && python3 -c 'import torch' 2> /dev/null; then
    step pytorch python3 "$here/gpu-peers.py" --seconds $seconds
    peers=1
else
    say "left out pytorch: no gpu-peers.py beside this script, or no torch"
fi
if [[ -n $weights && -n $frames ]]; then
    # The same pictures as so many cameras, as fast as it goes: frames a second over 30 are streams.
    for count in 1 4 16 32 64; do
        frames_each=$((many / count > 30 ? many / count : 30))
        if ((dry)); then
            say "would run  streams-$count: $count cameras of $frames, $frames_each frames each"
            continue
        fi
        sources=()
        mkdir -p "$out/cameras"
        for ((camera = 1; camera <= count; camera++)); do
            ln -sfn "$(cd "$frames" && pwd)" "$out/cameras/camera$camera"
            sources+=("$out/cameras/camera$camera")
        done
        step "streams-$count" "$binary" track "${sources[@]}" --weights "$weights" --device cuda \
            --precision bf16 --frame-rate 30 --max-frames $frames_each --quiet --out "$out/tracks-$count"
    done
else
    say "left out streams: no --weights and --frames"
fi
if ((peers && !dry)); then
    python3 "$here/gpu-peers.py" --table "$out" > "$out/table.md" && say "table    $out/table.md"
fi
if ((dry)); then
    say "dry run: none of these was run"
elif ((failed == 0)); then
    say "all done"
else
    say "$failed steps failed: see their .log in $out"
fi
exit $((failed > 0))
