"""Runs a Python tracker over a benchmark's public detections and writes its tracks.

    python quality.py PEER --data DIR --out DIR [--settings JSON] [--extra JSON] [--motion]

PEER is a name that peers.py knows. DIR holds SEQUENCE/{det-frcnn,det}/det.txt and
SEQUENCE/seqinfo.ini, with --motion also SEQUENCE/gmc.txt. What is written, OUT/SEQUENCE.txt, is
MOT Challenge text that `mtmc eval mot` reads. `--settings` are those of peers.py, `--extra` goes to
the package as it is.
"""

import argparse
import configparser
import json
from pathlib import Path

import numpy as np

import peers


def read_detections(path):
    """{frame: float32 [n, 5]}: x1, y1, x2, y2, score."""
    frames = {}
    for line in path.read_text().splitlines():
        fields = line.split(",")
        left, top, width, height, score = (np.float32(v) for v in fields[2:7])
        row = [left, top, left + width, top + height, score]
        frames.setdefault(int(fields[0]), []).append(row)
    return {frame: np.array(rows, dtype=np.float32) for frame, rows in frames.items()}


def read_motion(path):
    """The matrices of gmc.txt, one for each frame: 2x3."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [np.array(row[1:7], dtype=float).reshape(2, 3) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--extra", type=json.loads, default={})
    parser.add_argument("--motion", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in sorted(p for p in args.data.iterdir() if (p / "seqinfo.ini").is_file()):
        info = configparser.ConfigParser()
        info.read(folder / "seqinfo.ini")
        rate = float(info["Sequence"]["frameRate"])
        found = [p for name in ("det-frcnn", "det") if (p := folder / name / "det.txt").is_file()]
        frames = read_detections(found[0])
        motion = read_motion(folder / "gmc.txt") if args.motion else None
        peer = peers.build(
            args.peer, args.settings, rate=rate, with_motion=args.motion, **args.extra
        )
        lines = []
        for frame in range(1, int(info["Sequence"]["seqLength"]) + 1):
            rows = frames.get(frame, np.zeros((0, 5), dtype=np.float32))
            prepared = peer.prepare(np.ascontiguousarray(rows[:, :4]), rows[:, 4].copy())
            result = peer.update(prepared, motion[frame - 1] if motion else None)
            for track, x1, y1, x2, y2 in peer.rows(result):
                lines.append(
                    f"{frame},{track},{x1:.3f},{y1:.3f},{x2 - x1:.3f},{y2 - y1:.3f},1,-1,-1,-1"
                )
        (args.out / f"{folder.name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
