"""`mtmc eval reid` against torchreid at the size of Market-1501: the same figures, time, memory.

    OMP_NUM_THREADS=2 python compare_full_size.py --torchreid deep-person-reid \
        --mtmc target/release/mtmc [--rerank]

Makes features (3,368 queries, 15,913 gallery images, 2048 numbers each), runs both on them one
after the other and prints figures, seconds and peak memory. torchreid runs in a process of its own;
its time is that of distances, ranking and re-ranking, without reading the features and importing
torch, while that of mtmc is the whole command. On two cores of an AMD EPYC server with other work
beside them (torch 2.15.0):

    mtmc          3.89 s             torchreid   81.17 s              largest difference 4.3e-08
    --rerank
    mtmc         23.22 s   284 MiB   torchreid  395.72 s  9054 MiB    largest difference 1.5e-08
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from make_goldens import inverse_negative_penalty, load

QUERIES, GALLERY, DIM, PEOPLE, CAMERAS = 3368, 15913, 2048, 750, 6


def make(folder):
    rng = np.random.default_rng(5)
    people = rng.standard_normal((PEOPLE, DIM), dtype=np.float32)
    for name, count in (("query", QUERIES), ("gallery", GALLERY)):
        ids = rng.integers(0, PEOPLE, count)
        features = people[ids] + 5 * rng.standard_normal((count, DIM), dtype=np.float32)
        cameras = rng.integers(0, CAMERAS, count)
        tensors = {"features": features, "ids": ids, "cameras": cameras}
        save_file(tensors, folder / f"{name}.safetensors")


def torchreid(root, folder, rerank):
    import torch

    paths = ["metrics/distance.py", "metrics/rank.py", "utils/rerank.py"]
    distance, rank, reranking = [load(root / "torchreid", path) for path in paths]
    query = load_file(folder / "query.safetensors")
    gallery = load_file(folder / "gallery.safetensors")
    q, g = torch.from_numpy(query["features"]), torch.from_numpy(gallery["features"])
    compute = lambda a, b: distance.compute_distance_matrix(a, b, "cosine").numpy()
    started = time.time()
    distances = compute(q, g)
    if rerank:
        distances = reranking.re_ranking(distances, compute(q, q), compute(g, g))
    cmc, mean_ap = rank.evaluate_rank(
        distances, query["ids"], gallery["ids"], query["cameras"], gallery["cameras"],
        use_cython=False,
    )
    seconds = time.time() - started
    sides = [(side["features"], side["ids"], side["cameras"]) for side in (query, gallery)]
    minp, _ = inverse_negative_penalty(distances, *sides)
    figures = {"rank1": float(cmc[0]), "rank10": float(cmc[9]), "map": float(mean_ap), "minp": minp}
    print(json.dumps({"seconds": seconds, **figures}))


def measure(name, command):
    """Runs a command that prints JSON; gives it with its seconds and peak memory."""
    before = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        # The kernel's own high-water mark; `ru_maxrss` would count this process before `exec`.
        status = Path(f"/proc/{process.pid}/status").read_text()
        marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *map(int, marks)])
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"{name} failed")
    result = json.load(process.stdout)
    seconds = result.get("seconds", time.time() - before)
    figures = " ".join(f"{key} {result[key]:.7f}" for key in ("rank1", "rank10", "map", "minp"))
    print(f"{name:<10} {seconds:8.2f} s {peak / 1024:8.0f} MiB  {figures}")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torchreid", type=Path, required=True)
    parser.add_argument("--mtmc", type=Path)
    parser.add_argument("--rerank", action="store_true")
    parser.add_argument("--folder", type=Path, help="features are here already")
    args = parser.parse_args()
    if args.mtmc is None:
        torchreid(args.torchreid, args.folder, args.rerank)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        rerank = ["--rerank"] if args.rerank else []
        files = [f"--{side}={folder / side}.safetensors" for side in ("query", "gallery")]
        ours = measure("mtmc", [args.mtmc, "eval", "reid", "--json", *files, *rerank])
        own = [sys.executable, __file__, "--torchreid", args.torchreid, "--folder", folder]
        theirs = measure("torchreid", [*own, *rerank])
        worst = max(abs(ours[key] - theirs[key]) for key in ("rank1", "rank10", "map", "minp"))
        print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
