"""A second opinion on reading from object stores: moto's S3 server instead of s3s.

Starts moto's server on loopback, puts the files of a folder made up here into a bucket, and runs
the ignored test of tests/source_s3.rs against it, which compares what comes from the store with
what comes from the folder. Run from the repository's root:

    python -m venv /tmp/moto && /tmp/moto/bin/pip install "moto[server,s3]==5.2.5" boto3==1.44.5
    /tmp/moto/bin/python tests/oracle/s3/moto_server.py
"""

import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import boto3
import moto
from moto.server import ThreadedMotoServer

BUCKET = "cameras"
VIDEO = pathlib.Path("tests/oracle/source/bframes.mp4")


def png(grey, width=16, height=12):
    """A grey image as a PNG file."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes([grey]) * width) * height)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def make_frames(folder):
    """More images than a page has, numbers without leading zeros, odd names, broken ones."""
    many = folder / "site/many"
    many.mkdir(parents=True)
    for number in range(1, 2301):
        (many / f"f{number}.png").write_bytes(png(number % 251))
    odd = folder / "site/odd names"
    odd.mkdir()
    for name in ["a b.png", "ü+&=?#%41.png", "00.png", "9.png", "10.png"]:
        (odd / name).write_bytes(png(len(name)))
    (odd / "empty.png").write_bytes(b"")
    (odd / "cut.png").write_bytes(png(0)[:40])
    (odd / "notes.txt").write_text("no image")
    shutil.copy(VIDEO, folder / "site/street.mp4")


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ.update(keys, AWS_REGION="us-east-1")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root)
        make_frames(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = path.relative_to(folder).as_posix()
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        print(f"moto {moto.__version__} at {endpoint}", flush=True)
        test = ["cargo", "test", "-p", "mtmc", "--test", "source_s3", "--", "--ignored", "--nocapture"]
        environment = dict(os.environ, MTMC_S3_ENDPOINT=endpoint, MTMC_TEST_S3_FOLDER=root)
        code = subprocess.run(test, env=environment, check=False).returncode
    server.stop()
    sys.exit(code)


if __name__ == "__main__":
    main()
