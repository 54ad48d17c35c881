"""Goldens of `mtmc eval reid`: torchreid's own ranking and re-ranking on made-up features.

    git clone https://github.com/KaiyangZhou/deep-person-reid
    OMP_NUM_THREADS=1 python make_goldens.py --torchreid deep-person-reid

Written with Python 3.11, numpy 2.4.6, torch 2.15.0, safetensors 0.8.0 and torchreid 1.4.0
(f8cd150). torchreid's files for distances, ranking and re-ranking are loaded one by one and run as
they are, but for one thing: `numpy.argsort` sorts stably there, so that equal distances rank in the
order of the gallery. torchreid has no junk; it is taken out of the gallery before. mINP is not in
torchreid either and is computed here as in Ye et al. 2021, from the ranks of a stable sort.
"""

import argparse
import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parents[2] / "goldens" / "reid"

# Without a part of the original distance (lambda 0), images whose neighbourhoods are the same in
# another order are equally far, and rounding alone ranks them.
RERANKS = [None, (20, 6, 0.3), (5, 1, 0.5), (7, 3, 0.05)]


class StableNumpy:
    """numpy, but for `argsort`."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def argsort(values, axis=-1):
        return np.argsort(values, axis=axis, kind="stable")


def load(root, path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, root / path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    if hasattr(module, "np"):
        module.np = StableNumpy()
    return module


def clusters(rng, people, queries, gallery, dim, cameras, noise):
    """People as Gaussian clusters that overlap; every tenth gallery image is junk or nobody."""
    centres = rng.standard_normal((people + 1, dim))

    def images(count, nobody):
        ids = rng.integers(1, people + 1, count)
        if nobody:
            kind = rng.integers(0, 20, count)
            ids[kind == 0] = 0
            ids[kind == 1] = -1
        features = centres[np.abs(ids)] + noise * rng.standard_normal((count, dim))
        features[ids == 0] = 2 * rng.standard_normal((np.sum(ids == 0), dim))
        return features.astype(np.float32), ids, rng.integers(1, cameras + 1, count)

    return images(queries, False), images(gallery, True)


def signs(rng, people, queries, gallery):
    """Features of ±1 in 16-D, their length is 4: distances are exact in f32 and many are equal."""
    centres = rng.choice([-1.0, 1.0], (people + 1, 16))

    def images(count):
        ids = rng.integers(0, people + 1, count)
        flips = np.where(rng.random((count, 16)) < 0.15, -1.0, 1.0)
        return (centres[ids] * flips).astype(np.float32), ids, rng.integers(1, 4, count)

    query, gallery = images(queries), images(gallery)
    query[1][query[1] == 0] = 1
    return query, gallery


def few(rng):
    """A gallery of fewer images than ranks; ID 1 is in its query's camera alone, ID 5 nowhere."""
    query_ids = np.array([1, 2, 3, 5, 2])
    query_cameras = np.array([1, 1, 2, 2, 3])
    gallery_ids = np.array([1, 2, 3, 1, 0, 2, -1])
    gallery_cameras = np.array([1, 2, 1, 1, 1, 3, 2])
    features = rng.standard_normal((12, 8)).astype(np.float32)
    return (features[:5], query_ids, query_cameras), (features[5:], gallery_ids, gallery_cameras)


def inverse_negative_penalty(distances, query, gallery):
    """Mean over the queries with a match, and how many these are."""
    values = []
    for row, pid, camera in zip(distances, query[1], query[2]):
        order = np.argsort(row, kind="stable")
        keep = ~((gallery[1][order] == pid) & (gallery[2][order] == camera))
        ranks = np.flatnonzero(gallery[1][order][keep] == pid) + 1
        if len(ranks):
            values.append(len(ranks) / ranks[-1])
    return float(np.mean(values)), len(values)


def evaluate(modules, query, gallery, metric, rerank):
    distance, rank, reranking = modules
    q, g = torch.from_numpy(query[0]), torch.from_numpy(gallery[0])
    compute = lambda a, b: distance.compute_distance_matrix(a, b, metric).numpy()
    distances = compute(q, g)
    if rerank:
        k1, k2, lambda_value = rerank
        distances = reranking.re_ranking(
            distances, compute(q, q), compute(g, g), k1, k2, lambda_value
        )
    # A curve that is longer than what the protocol leaves of the gallery fails in torchreid.
    same = (query[1][:, None] == gallery[1]) & (query[2][:, None] == gallery[2])
    ranks = min(50, int(np.sum(~same, axis=1).min()))
    cmc, mean_ap = rank.evaluate_rank(
        distances, query[1], gallery[1], query[2], gallery[2], max_rank=ranks, use_cython=False
    )
    minp, queries = inverse_negative_penalty(distances, query, gallery)
    return {
        "distance": metric,
        "rerank": rerank,
        "cmc": [round(float(value), 7) for value in cmc],
        "map": float(mean_ap),
        "minp": minp,
        "queries": queries,
        # Of all gallery images but junk to the first query.
        "first_row": [round(float(value), 7) for value in distances[0]],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torchreid", type=Path, required=True)
    root = parser.parse_args().torchreid / "torchreid"
    paths = ["metrics/distance.py", "metrics/rank.py", "utils/rerank.py"]
    modules = [load(root, path) for path in paths]
    cases = {
        "clusters": clusters(np.random.default_rng(1), 9, 20, 120, 12, 4, 1.1),
        "signs": signs(np.random.default_rng(2), 7, 16, 90),
        "few": few(np.random.default_rng(3)),
    }
    GOLDENS.mkdir(parents=True, exist_ok=True)
    goldens = {}
    for name, sides in cases.items():
        for side, (features, ids, cameras) in zip(("query", "gallery"), sides):
            tensors = {"features": features, "ids": ids, "cameras": cameras}
            save_file(tensors, GOLDENS / f"{name}-{side}.safetensors")
        query, gallery = sides
        kept = gallery[1] != -1
        gallery = tuple(part[kept] for part in gallery)
        goldens[name] = [
            evaluate(modules, query, gallery, metric, rerank)
            for metric in ("cosine", "euclidean")
            for rerank in RERANKS
        ]
    rows = []
    for name, results in goldens.items():
        lines = ",\n".join("  " + json.dumps(result) for result in results)
        rows.append(f' "{name}": [\n{lines}\n ]')
    (GOLDENS / "expected.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
