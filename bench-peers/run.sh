#!/usr/bin/env bash
# Compares mtmc with published trackers and prints the tables of docs/comparison.md.
#
#     bench-peers/run.sh MOT17 [OUT]
#
# MOT17 is a folder of sequences with gt/, det-frcnn/ (or det/), gmc.txt and seqinfo.ini. The first
# run makes a Python environment in OUT (default: out/peers) with requirements.txt, some gigabytes;
# MTMC_BENCH_PYTHON names an interpreter that has them already.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="$(cd "${1:?folder of MOT17 sequences}" && pwd)"
mkdir -p "${2:-$here/../out/peers}"
out="$(cd "${2:-$here/../out/peers}" && pwd)"

if [[ -z "${MTMC_BENCH_PYTHON:-}" ]]; then
    export MTMC_BENCH_PYTHON="$out/venv/bin/python"
    if [[ ! -x "$MTMC_BENCH_PYTHON" ]]; then
        python3 -m venv "$out/venv"
        "$out/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    fi
fi

# The package keeps its builds with the product's, so that what both need is built once.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/../target}"
bench=(cargo run --quiet --release --manifest-path "$here/Cargo.toml" --)
"${bench[@]}" quality --data "$data" --out "$out/tracks"
"${bench[@]}" speed
