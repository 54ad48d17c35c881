"""Writes tests/goldens/eval_mtmc: what published tools measure of made-up cameras and maps.

    OMP_NUM_THREADS=1 python make_goldens.py CMC

CMC is the folder with CMC1/GT_WORLD_CENTROID.txt. Made with Python 3.11, reid_hota 0.3.6 (NIST,
public domain), trackeval 1.3.0 (MIT), motmetrics 1.4.0 (MIT), NumPy 2.4.6, SciPy 1.17.1, pandas
3.1.1.

- boxes-*-truth.txt, boxes-*-tracks.txt: camera, identity, frame, left, top, width, height, x, y.
  `overlap`: three cameras see one crowd; `corridor`: few people walk from camera to camera, so that
  most frames hold one or none.
- map-cmc1-tracks.txt, map-crowd-*.txt: frame, identity, x, y. The first is CMC1's truth, erring.
- expected.json: reid_hota's, TrackEval's and motmetrics' figures.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

import motmetrics
import numpy as np
import pandas as pd
from reid_hota import HOTAConfig, HOTAReIDEvaluator
from trackeval.metrics import CLEAR, HOTA, Identity

GOLDENS = Path(__file__).parents[2] / "goldens" / "eval_mtmc"
ALPHAS = np.arange(0.05, 0.99, 0.05)


def err(rng, truth, jitter, invent):
    """A tracker's rows of (camera, identity, frame, values): wrong places, misses, false alarms, new
    and swapped identities, some of them in one camera alone."""
    names, rows, fresh = {}, [], 100
    by_picture = defaultdict(list)
    for camera, identity, frame, values in truth:
        by_picture[frame, camera].append((identity, values))
    for frame, camera in sorted(by_picture):
        people = by_picture[frame, camera]
        used = set()
        for identity, values in people:
            key = (camera, identity)
            if key not in names:
                # Mostly the name that another camera has given.
                known = [name for (_, other), name in names.items() if other == identity]
                names[key] = known[0] if known and rng.random() < 0.7 else (fresh := fresh + 1)
            if rng.random() < 0.02:
                names[key] = fresh = fresh + 1
            if rng.random() < 0.02:
                other = rng.choice(people)[0]
                if (camera, other) in names:
                    names[key], names[camera, other] = names[camera, other], names[key]
            if rng.random() < 0.1 or names[key] in used:
                continue
            used.add(names[key])
            rows.append((camera, names[key], frame, jitter(values)))
        if rng.random() < 0.2:
            rows.append((camera, 900 + frame % 7, frame, invent()))
    return rows


def box_case(rng, name):
    truth = []
    people = 7 if name == "overlap" else 4
    for frame in range(30):
        for person in range(1, people + 1):
            for camera in (1, 2, 5):
                at = (frame * (person % 3 + 1) * 9 + person * 60 + camera * 20) % 400
                if name == "corridor":
                    # Each camera sees a stretch of the walk.
                    stretch = (frame + person * 9) % 30 // 6
                    if stretch != {1: 0, 2: 1, 5: 3}[camera]:
                        continue
                elif rng.random() < 0.1 or frame % 13 == camera:
                    continue
                box = (at + rng.uniform(-2, 2), 40 + person * 9 + rng.uniform(-2, 2), 40 + person, 90)
                place = (frame * 0.2 * (person % 3 + 1), person * 1.1)
                truth.append((camera, person, frame, box + place))

    def jitter(values):
        return tuple(value + rng.gauss(0, 5) for value in values[:4]) + tuple(v + rng.gauss(0, 0.2) for v in values[4:])

    def invent():
        return (rng.uniform(0, 400), rng.uniform(40, 110), 40, 90, rng.uniform(0, 9), rng.uniform(0, 9))

    return truth, err(rng, truth, jitter, invent)


def write_boxes(path, rows):
    lines = []
    for camera, identity, frame, values in rows:
        lines.append(f"{camera} {identity} {frame} " + " ".join(f"{value:.3f}" for value in values))
    path.write_text("\n".join(lines) + "\n")


def read_boxes(path):
    columns = ["camera", "id", "frame", "left", "top", "width", "height", "x", "y"]
    return pd.read_csv(path, sep=" ", names=columns)


def reid_hota(truth, tracks):
    def frames(table):
        table = table.assign(x1=table.left, y1=table.top, x2=table.left + table.width, y2=table.top + table.height)
        table = table.assign(object_type=1)
        return {str(camera): rows for camera, rows in table.groupby("camera")}

    result = {}
    for method in ("global", "per_video"):
        config = HOTAConfig(
            id_alignment_method=method,
            reference_contains_dense_annotations=True,
            iou_thresholds=ALPHAS.copy(),
            suppress_print_statements=True,
        )
        evaluator = HOTAReIDEvaluator(n_workers=0, config=config)
        evaluator.evaluate(frames(truth), frames(tracks))
        keys = ("TP", "FN", "FP", "LocA", "HOTA", "AssA", "AssRe", "AssPr", "DetA", "OWTA", "IDF1")

        def figures(data):
            return {key: np.asarray(data[key]).tolist() for key in keys}

        if method == "global":
            result["global"] = figures(evaluator.get_global_hota_data())
        else:
            videos = evaluator.get_per_video_hota_data()
            result["cameras"] = {camera: figures(data) for camera, data in videos.items()}
    return result


def iou(a, b):
    wide = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    high = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    area = lambda boxes: (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return shared / (area(a)[:, None] + area(b)[None, :] - shared)


def corners(rows):
    low = rows[["left", "top"]].to_numpy(float)
    return np.hstack([low, low + rows[["width", "height"]].to_numpy(float)])


def trackeval(pictures, metrics):
    """`pictures`: true identities, tracks' identities, similarities, a triple a frame."""
    truths = sorted({identity for ids, _, _ in pictures for identity in ids})
    tracks = sorted({identity for _, ids, _ in pictures for identity in ids})
    data = dict(
        num_gt_ids=len(truths),
        num_tracker_ids=len(tracks),
        num_gt_dets=sum(len(ids) for ids, _, _ in pictures),
        num_tracker_dets=sum(len(ids) for _, ids, _ in pictures),
        num_timesteps=len(pictures),
        gt_ids=[np.array([truths.index(i) for i in ids], int) for ids, _, _ in pictures],
        tracker_ids=[np.array([tracks.index(i) for i in ids], int) for _, ids, _ in pictures],
        similarity_scores=[similarity for _, _, similarity in pictures],
    )
    result = {}
    for metric in metrics:
        for key, value in metric.eval_sequence(data).items():
            result[key] = np.asarray(value, float).tolist()
    return result


def trackeval_boxes(truth, tracks):
    pictures = []
    for frame in range(30):
        for camera in sorted(truth.camera.unique()):
            a = truth[(truth.frame == frame) & (truth.camera == camera)]
            b = tracks[(tracks.frame == frame) & (tracks.camera == camera)]
            pictures.append((a.id.tolist(), b.id.tolist(), iou(corners(a), corners(b))))
    return trackeval(pictures, [HOTA(), Identity(dict(PRINT_CONFIG=False))])


def distances(truth, tracks):
    """Per frame: identities and the matrix of distances."""
    result = []
    for frame in range(1, max(truth.frame.max(), tracks.frame.max()) + 1):
        a, b = truth[truth.frame == frame], tracks[tracks.frame == frame]
        apart = a[["x", "y"]].to_numpy()[:, None] - b[["x", "y"]].to_numpy()[None]
        result.append((a.id.tolist(), b.id.tolist(), np.hypot(apart[..., 0], apart[..., 1])))
    return result


def measure_map(truth, tracks, limit):
    frames = distances(truth, tracks)
    pictures = [(a, b, np.maximum(0, 1 - apart / (2 * limit))) for a, b, apart in frames]
    quiet = dict(PRINT_CONFIG=False)
    result = dict(trackeval=trackeval(pictures, [HOTA(), CLEAR(quiet), Identity(quiet)]))
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for a, b, apart in frames:
        accumulator.update(a, b, np.where(apart <= limit, apart, np.nan))
    names = "mota motp num_detections num_false_positives num_misses num_switches num_fragmentations"
    names += " mostly_tracked mostly_lost idf1 idp idr idtp idfp idfn"
    summary = motmetrics.metrics.create().compute(accumulator, metrics=names.split())
    result["motmetrics"] = {key: float(summary[key].iloc[0]) for key in names.split()}
    return result


def read_map(path, columns):
    table = pd.read_csv(path, sep=r"\s+", header=None)
    table = table[columns]
    table.columns = ["frame", "id", "x", "y"]
    return table


def map_tracks(rng, truth, path, away):
    rows = [(0, row.id, row.frame, (row.x, row.y)) for row in truth.itertuples()]
    jitter = lambda at: tuple(value + rng.gauss(0, 0.15) for value in at)
    middle = truth[["x", "y"]].mean().tolist()
    invent = lambda: tuple(value + away + rng.uniform(-1.5, 1.5) for value in middle)
    found = err(rng, rows, jitter, invent)
    write_map(path, [(frame, identity, *at) for _, identity, frame, at in found])


def write_map(path, rows):
    path.write_text("".join(f"{int(f)} {int(i)} {x:.3f} {y:.3f}\n" for f, i, x, y in rows))


def main(cmc):
    rng = random.Random(5)
    GOLDENS.mkdir(parents=True, exist_ok=True)
    expected = dict(boxes={}, map={})
    for name in ("overlap", "corridor"):
        files = [GOLDENS / f"boxes-{name}-{kind}.txt" for kind in ("truth", "tracks")]
        for path, rows in zip(files, box_case(rng, name)):
            write_boxes(path, rows)
        truth, tracks = map(read_boxes, files)
        expected["boxes"][name] = dict(
            reid_hota=reid_hota(truth, tracks), trackeval=trackeval_boxes(truth, tracks)
        )
    truth = read_map(cmc / "CMC1" / "GT_WORLD_CENTROID.txt", [0, 1, 7, 8])
    path = GOLDENS / "map-cmc1-tracks.txt"
    # False alarms far from everyone, so that motmetrics' CLEAR agrees: it keeps a pair over frames in
    # which it was lost, where TrackEval pairs anew.
    map_tracks(rng, truth, path, 9)
    tracks = read_map(path, [0, 1, 2, 3])
    expected["map"]["cmc1"] = {str(limit): measure_map(truth, tracks, limit) for limit in (0.5, 0.3)}
    crowd = []
    for frame in range(1, 61):
        for person in range(1, 13):
            if rng.random() > 0.05:
                angle = person * 0.5 + frame * (0.05 if person % 2 else -0.04)
                crowd.append((frame, person, 2 + 1.5 * np.cos(angle), 2 + 1.1 * np.sin(angle)))
    path = GOLDENS / "map-crowd-truth.txt"
    write_map(path, crowd)
    truth = read_map(path, [0, 1, 2, 3])
    path = GOLDENS / "map-crowd-tracks.txt"
    map_tracks(rng, truth, path, 0)
    tracks = read_map(path, [0, 1, 2, 3])
    expected["map"]["crowd"] = {str(limit): measure_map(truth, tracks, limit) for limit in (0.5, 0.25)}
    (GOLDENS / "expected.json").write_text(json.dumps(rounded(expected)) + "\n")


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 10)


main(Path(sys.argv[1]))
