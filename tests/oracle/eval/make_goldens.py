"""Writes tests/goldens/eval: TrackEval's detailed figures.

    OMP_NUM_THREADS=1 python make_goldens.py TRACKEVAL MOT17

TRACKEVAL is a checkout of github.com/JonathonLuiten/TrackEval (commit 12c8791, MIT), MOT17 the folder
with MOT17-02 and so on and a `tracker-output.txt` in each. Made with Python 3.11.7, NumPy 2.4.6 and
SciPy 1.17.1; TrackEval's `np.float` and `np.int`, which NumPy has dropped, are put back.

- mot17-combined.csv: the row that puts the four sequences together.
- made-up-*.txt, made-up.csv: small sequences with all classes, ignored boxes, frames without truth
  or tracks, people who leave and return, boxes of no size; MOT15's, MOT17's and MOT20's rules.
"""

import csv
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

np.float, np.int = float, int

GOLDENS = Path(__file__).parents[2] / "goldens" / "eval"


def evaluate(trackeval, truth_folder, tracks, benchmark):
    """Rows of pedestrian_detailed.csv; `tracks`: file by sequence."""
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "tracker" / "data"
        data.mkdir(parents=True)
        for sequence, file in tracks.items():
            shutil.copy(file, data / f"{sequence}.txt")
        quiet = dict(PRINT_CONFIG=False)
        evaluator = trackeval.Evaluator(
            trackeval.Evaluator.get_default_eval_config()
            | dict(PRINT_RESULTS=False, TIME_PROGRESS=False, PLOT_CURVES=False, OUTPUT_EMPTY_CLASSES=True)
            | dict(BREAK_ON_ERROR=True) | quiet
        )
        dataset = trackeval.datasets.MotChallenge2DBox(
            dict(
                GT_FOLDER=str(truth_folder),
                TRACKERS_FOLDER=work,
                BENCHMARK=benchmark,
                SKIP_SPLIT_FOL=True,
                SEQ_INFO={sequence: None for sequence in tracks},
            )
            | quiet
        )
        metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
        evaluator.evaluate([dataset], metrics)
        with open(Path(work) / "tracker" / "pedestrian_detailed.csv") as file:
            return list(csv.reader(file))


def made_up(rng, benchmark, frames):
    """Lines of truth and of tracks: people who wander, a tracker that errs."""
    people = []
    for identity in range(1, 9):
        people.append([identity, rng.uniform(0, 300), rng.uniform(0, 100), rng.uniform(20, 40), rng.uniform(50, 90)])
    classes = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 7: 6, 8: rng.choice([3, 7, 8, 12])}
    track_of = {}
    next_track = 1
    truth, tracks = [], []
    for frame in range(1, frames + 1):
        for person in people:
            identity, x, y, w, h = person
            person[1] += rng.uniform(-4, 4)
            person[2] += rng.uniform(-2, 2)
            if frame % 11 == 5 or rng.random() < 0.1:
                continue
            flag = 0 if rng.random() < 0.07 else 1
            kind = classes[identity] if benchmark != "MOT15" else -1
            truth.append(f"{frame},{identity},{x:.2f},{y:.2f},{w:.2f},{h:.2f},{flag},{kind},{rng.random():.2f}")
            if frame % 13 == 7 or rng.random() < 0.15:
                continue
            if identity not in track_of or rng.random() < 0.06:
                track_of[identity] = next_track
                next_track += 1
            dx, dy, s = rng.gauss(0, 4), rng.gauss(0, 6), rng.uniform(0.85, 1.15)
            w, h = (0, h) if rng.random() < 0.02 else (w * s, h * s)
            tracks.append(f"{frame},{track_of[identity]},{x + dx:.2f},{y + dy:.2f},{w:.2f},{h:.2f},0.9,-1,-1,-1")
        if rng.random() < 0.3:
            tracks.append(f"{frame},{1000 + rng.randrange(3)},{rng.uniform(0, 300):.2f},20,30,70,0.5,-1,-1,-1")
    return truth, tracks


def main():
    source, mot17 = sys.argv[1:]
    sys.path.insert(0, source)
    import trackeval

    shutil.rmtree(GOLDENS, ignore_errors=True)
    GOLDENS.mkdir(parents=True)
    sequences = ["MOT17-02", "MOT17-05", "MOT17-09", "MOT17-11"]
    tracks = {sequence: os.path.join(mot17, sequence, "tracker-output.txt") for sequence in sequences}
    rows = evaluate(trackeval, mot17, tracks, "MOT17")
    with open(GOLDENS / "mot17-combined.csv", "w") as file:
        csv.writer(file, lineterminator="\n").writerows([rows[0], rows[-1]])

    table = None
    for benchmark in ["MOT15", "MOT17", "MOT20"]:
        rng = random.Random(benchmark)
        name = f"made-up-{benchmark.lower()}"
        truth, found = made_up(rng, benchmark, 40)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / name
            (folder / "gt").mkdir(parents=True)
            (folder / "gt" / "gt.txt").write_text("\n".join(truth) + "\n")
            (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=41\n")
            (GOLDENS / f"{name}-truth.txt").write_text("\n".join(truth) + "\n")
            (GOLDENS / f"{name}-tracks.txt").write_text("\n".join(found) + "\n")
            rows = evaluate(trackeval, work, {name: GOLDENS / f"{name}-tracks.txt"}, benchmark)
        table = table or [rows[0]]
        table.append(rows[1])
    with open(GOLDENS / "made-up.csv", "w") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
