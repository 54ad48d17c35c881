"""What the trackers' oracles share: boxes from files and made-up crowds, and how goldens are written.

A golden is text. Line 1: `# ` and JSON with the settings and where the detections come from.
Then one line a frame, from frame 1 on; empty if the frame has no track. Else `ids|sum`: ids
ascending, with runs as `a-b`, or `=` if they are those of the line before; sum over the tracks
of (1 + place among the ids) * (left + top + right + bottom), two decimals, so that two tracks
that swap their ids change it. With `"rows": true` a frame's line is
`id left top right bottom;…` instead, two decimals each.

The generators have twins in tests/tracker_goldens/crowd.rs.
"""

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
    with poor scores at times; some boxes belong to nobody. Returns {frame: float32 array (n, 5)
    of x1, y1, x2, y2, score} and {frame: list of the n targets they belong to, None for nobody}.
    """
    rng = Lcg(seed)
    people = []
    for _ in range(targets):
        x, y = rng.below(600 * 64), rng.below(400 * 64)
        vx, vy = rng.below(512) - 256, rng.below(256) - 128
        width = 20 * 64 + rng.below(30 * 64)
        people.append([x, y, vx, vy, width, width * 5 // 2, 0])
    result, owners = {}, {}
    for frame in range(1, frames + 1):
        rows, owned = [], []
        for target, p in enumerate(people):
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
            owned.append(target)
        for _ in range(rng.below(3)):
            x, y = rng.below(640 * 64), rng.below(480 * 64)
            width = 10 * 64 + rng.below(60 * 64)
            rows.append([x / 64, y / 64, (x + width) / 64, (y + 2 * width) / 64, rng.below(1024) / 1024])
            owned.append(None)
        if rows:
            result[frame] = np.array(rows, dtype=np.float32)
            owners[frame] = owned
    return result, owners


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


def digest(tracks, before, rows):
    """A frame's line, and its ids; `before` are those of the frame before."""
    tracks = sorted(tracks, key=lambda t: t.track_id)
    ids = [t.track_id for t in tracks]
    if rows:
        line = ";".join(f"{t.track_id} " + " ".join(f"{v:.2f}" for v in t.tlbr) for t in tracks)
    elif ids:
        total = sum(place * float(t.tlbr.sum()) for place, t in enumerate(tracks, 1))
        line = f"{'=' if ids == before else runs(ids)}|{total:.2f}"
    else:
        line = ""
    return line, ids


def write_golden(path, header, lines):
    """Writes one golden."""
    text = "\n".join(["# " + json.dumps(header)] + lines) + "\n"
    path.write_text(text)
    print(f"{path.stem}: {len(lines)} frames, {len(text)} bytes")


def sequence_info(folder):
    """Frame rate and length of a MOT Challenge sequence."""
    lines = (folder / "seqinfo.ini").read_text().splitlines()
    info = dict(line.split("=", 1) for line in lines if "=" in line)
    return int(info["frameRate"]), int(info["seqLength"])


def stand_in(name, **contents):
    """Puts a made-up module where imports find it."""
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    return module


def reference_package(name, folder: Path):
    """Makes `name` an empty package whose modules are the files of `folder`."""
    stand_in(name, __path__=[str(folder)])


def prepare():
    """What both references need and what has moved since."""
    np.float = float
    check_overlaps()
    stand_in("cython_bbox", bbox_overlaps=bbox_overlaps)
