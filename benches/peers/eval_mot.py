"""How long `mtmc eval mot` takes beside TrackEval, on the same files in the same run, in turns.

    cargo build --release
    OMP_NUM_THREADS=1 python benches/peers/eval_mot.py TRACKEVAL MOT17 [ROUNDS]

TRACKEVAL is a checkout of github.com/JonathonLuiten/TrackEval (MIT; commit 12c8791 here), MOT17 a
folder with MOT17-02, MOT17-05, MOT17-09, MOT17-11, a `tracker-output.txt` in each. NumPy 2.4.6, SciPy
1.17.1, Python 3.11.7; `np.float` and `np.int`, which NumPy has dropped, are put back.

TrackEval is timed inside this process: reading, preparation and HOTA, CLEAR, Identity and Count of
four sequences; neither Python's start nor imports, plots or printing count. `mtmc` is timed as a whole
process, start and JSON included, once on all cores and once on one (TrackEval uses one).

Two cores of a shared virtual machine, other work beside it, 15 rounds, medians: TrackEval 3,505 ms,
mtmc 145 ms (24 times as fast), on one core 149 ms.
"""

import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

np.float, np.int = float, int

SEQUENCES = ["MOT17-02", "MOT17-05", "MOT17-09", "MOT17-11"]
MTMC = Path(__file__).parents[2] / "target" / "release" / "mtmc"


def trackeval_run(trackeval, mot17, work):
    quiet = dict(PRINT_CONFIG=False)
    evaluator = trackeval.Evaluator(
        trackeval.Evaluator.get_default_eval_config()
        | dict(PRINT_RESULTS=False, TIME_PROGRESS=False, PLOT_CURVES=False, BREAK_ON_ERROR=True)
        | quiet
    )
    dataset = trackeval.datasets.MotChallenge2DBox(
        dict(
            GT_FOLDER=mot17,
            TRACKERS_FOLDER=str(work),
            TRACKERS_TO_EVAL=["tracker"],
            SKIP_SPLIT_FOL=True,
            SEQ_INFO={sequence: None for sequence in SEQUENCES},
        )
        | quiet
    )
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
    results, _ = evaluator.evaluate([dataset], metrics)
    return results["MotChallenge2DBox"]["tracker"]["COMBINED_SEQ"]["pedestrian"]


def mtmc_run(mot17, tracks, threads):
    command = [MTMC, "eval", "mot", "--gt", mot17, "--tracks", tracks, "--sequences", ",".join(SEQUENCES), "--json"]
    environment = os.environ | ({"RAYON_NUM_THREADS": str(threads)} if threads else {})
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def main():
    source, mot17 = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 9
    sys.path.insert(0, source)
    with contextlib.redirect_stdout(io.StringIO()):
        import trackeval

    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "tracker" / "data"
        data.mkdir(parents=True)
        for sequence in SEQUENCES:
            shutil.copy(Path(mot17) / sequence / "tracker-output.txt", data / f"{sequence}.txt")
        times = {"TrackEval": [], "mtmc, all cores": [], "mtmc, one core": []}
        for _ in range(rounds):
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                theirs = trackeval_run(trackeval, mot17, work)
            times["TrackEval"].append(time.perf_counter() - start)
            for name, threads in [("mtmc, all cores", None), ("mtmc, one core", 1)]:
                start = time.perf_counter()
                ours = mtmc_run(mot17, data, threads)
                times[name].append(time.perf_counter() - start)
    import json

    ours = json.loads(ours)["COMBINED"]
    assert abs(ours["hota"] - np.mean(theirs["HOTA"]["HOTA"])) < 1e-6
    assert abs(ours["mota"] - theirs["CLEAR"]["MOTA"]) < 1e-6
    assert abs(ours["idf1"] - theirs["Identity"]["IDF1"]) < 1e-6
    base = statistics.median(times["TrackEval"])
    print(f"{'':<18}{'median ms':>10}{'min ms':>10}{'max ms':>10}{'ratio':>8}   ({rounds} rounds)")
    for name, measured in times.items():
        median = statistics.median(measured)
        low, high = min(measured) * 1e3, max(measured) * 1e3
        print(f"{name:<18}{median * 1e3:>10.1f}{low:>10.1f}{high:>10.1f}{base / median:>8.1f}")


if __name__ == "__main__":
    main()
