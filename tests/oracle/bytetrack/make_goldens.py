"""Writes tests/goldens/bytetrack/*.txt: what the reference ByteTrack makes of known detections.

    python make_goldens.py --reference DIR --shared ../shared --out tests/goldens/bytetrack

DIR holds the four files of the reference's `yolox/tracker` folder (ifzhang/ByteTrack, MIT):
byte_tracker.py, kalman_filter.py, matching.py, basetrack.py. They run unchanged; what follows
stands in for what they need and what has moved since:

- `np.float`, gone from NumPy, is `float`;
- `cython_bbox`, replaced by the same formula (corners are inclusive: +1 on every side). If the
  real one (0.1.5) is installed, the two are compared first, bit for bit;
- `yolox.tracker`, an empty package whose path is DIR.

Detections go in as float32, as a detector gives them: corners = left + width, top + height in
float32. Scores are compared with thresholds in float32 (NumPy 2). The frame rate is the
sequence's; the reference numbers tracks over all instances, so its counter is reset before
each sequence.

Made with Python 3.11, numpy 2.4.6, scipy 1.17.1, lap 0.5.13, cython_bbox 0.1.5.

A golden is text. Line 1: `# ` and JSON with the settings and where the detections come from.
Then one line a frame, from frame 1 on; empty if the frame has no track. Else `ids|sum`: ids
ascending, with runs as `a-b`, or `=` if they are those of the line before; sum over the tracks
of (1 + place among the ids) * (left + top + right + bottom), two decimals, so that two tracks
that swap their ids change it. With `"rows": true` a frame's line is
`id left top right bottom;…` instead, two decimals each.
"""

import argparse
import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np


def bbox_overlaps(boxes, queries):
    """IoU of every box with every query, corners inclusive, as cython_bbox computes it."""
    overlaps = np.zeros((len(boxes), len(queries)), dtype=np.float64)
    for k, (qx1, qy1, qx2, qy2) in enumerate(queries):
        query_area = (qx2 - qx1 + 1) * (qy2 - qy1 + 1)
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            width = min(x2, qx2) - max(x1, qx1) + 1
            if width <= 0:
                continue
            height = min(y2, qy2) - max(y1, qy1) + 1
            if height <= 0:
                continue
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + query_area - width * height
            overlaps[n, k] = width * height / union
    return overlaps


def check_overlaps():
    """Compares `bbox_overlaps` with the real package, where that is installed."""
    try:
        from cython_bbox import bbox_overlaps as real
    except ImportError:
        print("cython_bbox is not installed: its stand-in goes unchecked")
        return
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (300, 2))
    boxes = np.hstack([corners, corners + rng.uniform(-2, 200, (300, 2))])
    assert np.array_equal(bbox_overlaps(boxes[:150], boxes[150:]), real(boxes[:150], boxes[150:]))
    print("bbox_overlaps equals cython_bbox's")


def load_reference(folder):
    """The reference's modules, imported from `folder` as `yolox.tracker`."""
    np.float = float
    shim = types.ModuleType("cython_bbox")
    shim.bbox_overlaps = bbox_overlaps
    sys.modules["cython_bbox"] = shim
    for name in ("yolox", "yolox.tracker"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)] if name == "yolox.tracker" else []
        sys.modules[name] = package
    sys.modules["yolox"].tracker = sys.modules["yolox.tracker"]
    tracker = importlib.import_module("yolox.tracker.byte_tracker")
    return tracker, importlib.import_module("yolox.tracker.basetrack").BaseTrack


def read_mot(path, score_divisor):
    """Frames of a MOT det.txt: {frame: float32 array (n, 5) of x1, y1, x2, y2, score}."""
    frames = {}
    for line in path.read_text().splitlines():
        fields = line.split(",")
        left, top, width, height, score = (np.float32(v) for v in fields[2:7])
        if score_divisor != 1:
            score = min(score / np.float32(score_divisor), np.float32(1))
        row = [left, top, left + width, top + height, score]
        frames.setdefault(int(fields[0]), []).append(row)
    return {f: np.array(rows, dtype=np.float32) for f, rows in frames.items()}


class Lcg:
    """Knuth's MMIX linear congruential generator; the upper 32 bits are the number."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        """An integer in 0..limit."""
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 32) % limit


def made_up(seed, frames, targets):
    """A crowd on a 640×480 floor, in integers so that every language makes the same.

    Lengths are in 1/64 pixel, scores in 1/1024. Targets bounce, hide for a while, are found
    with poor scores at times; some boxes belong to nobody. `made_up` in tests/tracker_goldens.rs
    is its twin.
    """
    rng = Lcg(seed)
    people = []
    for _ in range(targets):
        x, y = rng.below(600 * 64), rng.below(400 * 64)
        vx, vy = rng.below(512) - 256, rng.below(256) - 128
        width = 20 * 64 + rng.below(30 * 64)
        people.append([x, y, vx, vy, width, width * 5 // 2, 0])
    result = {}
    for frame in range(1, frames + 1):
        rows = []
        for p in people:
            p[0] += p[2]
            p[1] += p[3]
            if p[0] < 0 or p[0] > 640 * 64:
                p[2] = -p[2]
            if p[1] < 0 or p[1] > 480 * 64:
                p[3] = -p[3]
            if p[6] > 0:
                p[6] -= 1
                continue
            if rng.below(40) == 0:
                p[6] = 1 + rng.below(40)
            x, y = p[0] + rng.below(128) - 64, p[1] + rng.below(128) - 64
            width, height = p[4] + rng.below(128) - 64, p[5] + rng.below(256) - 128
            score = 600 + rng.below(424) if rng.below(4) else 50 + rng.below(700)
            rows.append([x / 64, y / 64, (x + width) / 64, (y + height) / 64, score / 1024])
        for _ in range(rng.below(3)):
            x, y = rng.below(640 * 64), rng.below(480 * 64)
            width = 10 * 64 + rng.below(60 * 64)
            rows.append([x / 64, y / 64, (x + width) / 64, (y + 2 * width) / 64, rng.below(1024) / 1024])
        if rows:
            result[frame] = np.array(rows, dtype=np.float32)
    return result


def runs(ids):
    """Ascending ids as text, three or more in a row as `a-b`."""
    parts, i = [], 0
    while i < len(ids):
        j = i
        while j + 1 < len(ids) and ids[j + 1] == ids[j] + 1:
            j += 1
        if j - i >= 2:
            parts.append(f"{ids[i]}-{ids[j]}")
        else:
            parts.extend(str(v) for v in ids[i : j + 1])
        i = j + 1
    return " ".join(parts)


def run(reference, base_track, detections, frames, settings, rows):
    """Golden lines of one sequence."""
    args = types.SimpleNamespace(
        track_thresh=settings["track_thresh"],
        match_thresh=settings["match_thresh"],
        track_buffer=settings["track_buffer"],
        mot20=not settings["fuse_score"],
    )
    base_track._count = 0
    tracker = reference.BYTETracker(args, frame_rate=settings["frame_rate"])
    nothing = np.zeros((0, 5), dtype=np.float32)
    lines, before = [], []
    for frame in range(1, frames + 1):
        boxes = detections.get(frame, nothing).copy()
        tracks = tracker.update(boxes, (1, 1), (1, 1))
        tracks = sorted(tracks, key=lambda t: t.track_id)
        ids = [t.track_id for t in tracks]
        if rows:
            lines.append(";".join(f"{t.track_id} " + " ".join(f"{v:.2f}" for v in t.tlbr) for t in tracks))
        elif ids:
            total = sum(place * float(t.tlbr.sum()) for place, t in enumerate(tracks, 1))
            lines.append(f"{'=' if ids == before else runs(ids)}|{total:.2f}")
        else:
            lines.append("")
        before = ids
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    check_overlaps()
    reference, base_track = load_reference(options.reference)

    def write(name, source, detections, frames, rows=False, **changes):
        settings = dict(track_thresh=0.5, match_thresh=0.8, track_buffer=30, frame_rate=30, fuse_score=True)
        settings.update(changes)
        lines = run(reference, base_track, detections, frames, settings, rows)
        header = dict(source, frames=frames, rows=rows, settings=settings)
        text = "\n".join(["# " + json.dumps(header)] + lines) + "\n"
        (options.out / f"{name}.txt").write_text(text)
        print(f"{name}: {len(lines)} frames, {len(text)} bytes")

    def write_mot(name, path, score_divisor=1, **changes):
        folder = options.shared / Path(path).parent.parent
        info = dict(
            line.split("=", 1) for line in (folder / "seqinfo.ini").read_text().splitlines() if "=" in line
        )
        detections = read_mot(options.shared / path, score_divisor)
        source = dict(detections=path, score_divisor=score_divisor)
        changes.setdefault("frame_rate", int(info["frameRate"]))
        write(name, source, detections, int(info["seqLength"]), **changes)

    # The reference's settings for MOT17 and MOT15's public detections (boosted trees with scores
    # far above 1, brought to 0..1) and for better detectors (scores 0.5..1).
    for sequence in ("02", "05", "09", "11"):
        path = f"data/mot17/MOT17-{sequence}/det-frcnn/det.txt"
        write_mot(f"mot17-{sequence}", path, track_thresh=0.6, match_thresh=0.9)
    for sequence in ("KITTI-13", "KITTI-17", "TUD-Campus", "TUD-Stadtmitte"):
        write_mot(f"{sequence}-det", f"data/mot15/{sequence}/det/det.txt", score_divisor=100)
        write_mot(f"{sequence}-sort", f"data/mot15/{sequence}/det-sort-frcnn/det.txt")
    # Raw scores above 1 and below 0; no score fusing.
    write_mot("KITTI-17-raw", "data/mot15/KITTI-17/det/det.txt")
    write_mot("mot17-09-mot20", "data/mot17/MOT17-09/det-frcnn/det.txt", fuse_score=False)

    for name, frames, targets, rows, changes in (
        ("rows", 60, 10, True, {}),
        ("crowd", 300, 40, False, {}),
        ("short-buffer", 600, 15, False, dict(track_buffer=8, frame_rate=20, match_thresh=0.9)),
        ("unfused", 200, 25, False, dict(fuse_score=False, track_thresh=0.6)),
    ):
        seed = 7 * frames + targets
        source = dict(made_up=dict(seed=seed, targets=targets))
        write(f"made-up-{name}", source, made_up(seed, frames, targets), frames, rows=rows, **changes)


if __name__ == "__main__":
    main()
