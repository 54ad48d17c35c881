"""Cameras' JPEG files to messages: frames a second of `mtmc track` and of Ultralytics with ByteTrack.

    python end_to_end.py --binary mtmc --model rtdetr-l.pt --weights rtdetr-l.safetensors \\
        --video clip.avi --folder /tmp/end-to-end [--cameras 4] [--frames 24] [--rounds 5] [--threads 2]

Both get the same folders of 1920x1080 JPEG files, made of the video's frames, one folder a camera, and
write a line of JSON for every frame. The weights must be the same (`mtmc models convert rtdetr-l.pt`).
They take turns, a fresh process each; what starting costs is taken out: of each long run the median of the
short ones. Printed: the median rate of each, their ratio, and each one's peak memory.

Ultralytics runs as its documentation shows it: a model for each camera, `track(frame, persist=True)`.
Needs ultralytics 8.4.190 (AGPL-3.0: run as it comes, for measuring only), torch 2.15, opencv.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

SHORT = 4


def make_pictures(args):
    import cv2

    video = cv2.VideoCapture(str(args.video))
    folders = [args.folder / f"camera{number}" for number in range(1, args.cameras + 1)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for frame in range(1, SHORT + args.frames + 1):
        ok, image = video.read()
        if not ok:
            sys.exit(f"{args.video} has fewer than {SHORT + args.frames} frames")
        image = cv2.resize(image, (1920, 1080), interpolation=cv2.INTER_CUBIC)
        for folder in folders:
            cv2.imwrite(str(folder / f"{frame:06}.jpg"), image)
    return folders


def ours(args, folders, frames):
    command = [args.binary, "track", *map(str, folders), "--weights", args.weights]
    command += ["--video", "none", "--out", str(args.folder / "out"), "--threads", str(args.threads)]
    command += ["--batch", str(args.batch), "--max-frames", str(frames), "--precision", args.precision]
    command += ["--classes", "all" if args.all_classes else "person"]
    return timed(command)


def theirs(args, folders, frames):
    command = [sys.executable, __file__, "--peer", args.model, "--frames", str(frames)]
    command += ["--threads", str(args.threads), "--folder", str(args.folder)]
    command += ["--all-classes"] if args.all_classes else []
    return timed(command + [part for folder in folders for part in ("--pictures", str(folder))])


def timed(command):
    """Seconds and the peak memory in MB of a command."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: {errors.decode()}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def peer(args):
    """The Python program that is compared with."""
    import cv2
    import torch
    from ultralytics import RTDETR, YOLO

    torch.set_num_threads(args.threads)
    kind = RTDETR if "rtdetr" in pathlib.Path(args.peer).name else YOLO
    models = [kind(args.peer) for _ in args.pictures]
    classes = None if args.all_classes else [0]
    with open(args.folder / "peer.jsonl", "w") as messages:
        for frame in range(1, args.frames + 1):
            for model, folder in zip(models, args.pictures):
                image = cv2.imread(f"{folder}/{frame:06}.jpg")
                settings = {"persist": True, "tracker": "bytetrack.yaml", "verbose": False}
                boxes = model.track(image, classes=classes, device="cpu", **settings)[0].boxes
                ids = [] if boxes.id is None else boxes.id.int().tolist()
                rows = zip(ids, boxes.xyxy.tolist(), boxes.conf.tolist())
                tracks = [{"track_id": i, "bbox": box, "confidence": c} for i, box, c in rows]
                line = {"camera": folder, "frame": frame, "tracks": tracks}
                messages.write(json.dumps(line) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=os.path.abspath)
    parser.add_argument("--model", type=os.path.abspath)
    parser.add_argument("--weights")
    parser.add_argument("--video", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--all-classes", action="store_true", help="for weights without names")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--pictures", action="append", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        peer(args)
        return
    folders = make_pictures(args)
    runs = (ours, theirs)
    short, long, memory = ({run: [] for run in runs} for _ in range(3))
    for _ in range(args.rounds):
        for run in runs:
            short[run].append(run(args, folders, SHORT)[0])
            seconds, peak = run(args, folders, SHORT + args.frames)
            long[run].append(seconds)
            memory[run].append(peak)
    rates = {}
    for run in runs:
        start = statistics.median(short[run])
        rates[run] = [args.frames * args.cameras / (seconds - start) for seconds in long[run]]
    medians = {run: statistics.median(values) for run, values in rates.items()}
    for run, name in ((ours, "mtmc"), (theirs, "ultralytics")):
        each = " ".join(f"{rate:.2f}" for rate in rates[run])
        print(f"{name}: {medians[run]:.2f} frames/s ({each}), {max(memory[run]):.0f} MB")
    print(f"ratio: {medians[ours] / medians[theirs]:.2f}")


if __name__ == "__main__":
    main()
