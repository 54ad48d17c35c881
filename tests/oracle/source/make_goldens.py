"""Makes the small MP4 files of this folder and the checksums of the frames that FFmpeg decodes.

    python make_goldens.py [shared-folder]

Made with FFmpeg 5.1.9 (libx264 164) and Python 3.11, NumPy 2. OpenCV's VideoCapture (4.x)
gives the same pixels for every file whose matrix is BT.601; it ignores the matrix of others.
A checksum is the pair (sum of bytes, sum of byte * (position mod 65521)) over a frame's RGB.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=98x66:rate=25:duration=1.6"]
# sync-lookahead and threads are fixed so that the files come out the same everywhere.
X264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "30", "-threads", "1", "-bitexact"]
CLIPS = {
    # B-frames in a pyramid: decoding order differs from display order. Without direct prediction,
    # in which OpenH264 2.6 is off by a few grey levels in some blocks.
    "bframes.mp4": [*X264, "-bf", "3", "-g", "20", "-x264-params",
                    "b-pyramid=normal:direct=none"],
    # The same in fragments, as cameras and browsers record.
    "fragments.mp4": [*X264, "-bf", "2", "-g", "10",
                      "-movflags", "frag_keyframe+empty_moov+default_base_moof"],
    # Another matrix, full range.
    "bt709_full.mp4": ["-vf", "scale=out_color_matrix=bt709:out_range=full", *X264, "-bf", "0",
                       "-colorspace", "bt709", "-color_range", "pc", "-frames:v", "5"],
}


def ffmpeg(*arguments):
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def frames(path, width, height):
    raw = ffmpeg("-i", path, "-map", "0:v:0", "-fps_mode", "passthrough",
                 "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height * width * 3)


def checksum(frame):
    values = frame.astype(np.uint64)
    positions = np.arange(len(frame), dtype=np.uint64) % 65521
    return [int(values.sum()), int((values * positions).sum())]


def times(path):
    lines = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
         "frame=best_effort_timestamp_time", "-of", "csv=p=0", str(path)],
        check=True, capture_output=True, text=True).stdout.split()
    first = float(lines[0].strip(","))
    return [round(float(line.strip(",")) - first, 6) for line in lines]


def main():
    golden = {}
    for name, options in CLIPS.items():
        ffmpeg(*SOURCE, *options, HERE / name)
        decoded = frames(HERE / name, 98, 66)
        golden[name] = {
            "size": [98, 66],
            "times": times(HERE / name),
            "checksums": {str(i): checksum(frame) for i, frame in enumerate(decoded)},
        }
    if len(sys.argv) > 1:
        shared = Path(sys.argv[1])
        for name, size in {
            "data/intel-samples/one-by-one-person-detection.mp4": (768, 432),
            "data/vtest-pets09-s2l1/vtest.avi": (768, 576),
        }.items():
            decoded = frames(shared / name, *size)
            golden[name] = {
                "size": list(size),
                "count": len(decoded),
                "checksums": {str(i): checksum(decoded[i]) for i in (0, 1, 100, len(decoded) - 1)},
            }
    (HERE / "goldens.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
