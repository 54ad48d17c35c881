"""Reads an event file with TensorBoard's own reader, and checks it against the file that its own
writer makes of the same events.

Run from the repository's root: python tests/oracle/train_watch.py [FOLDER]
Made with tensorboard 2.21.0. Without a folder it writes tests/goldens/train/events.hex; with one it
prints what TensorBoard finds in it.
"""
import pathlib
import sys

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def golden(path: pathlib.Path) -> None:
    """The events of `event_files_are_tensorboards_own` in tests/train_watch.rs."""
    events = [
        Event(wall_time=1700000000.25, step=0, file_version="brain.Event:2"),
        Event(wall_time=1700000000.25, step=3, session_log=SessionLog(status=SessionLog.START)),
        Event(
            wall_time=1700000001.5,
            step=300,
            summary=Summary(value=[
                Summary.Value(tag="loss/id", simple_value=6.25),
                Summary.Value(tag="lr", simple_value=3.5e-4),
            ]),
        ),
        Event(
            wall_time=1700000002.0,
            step=2**33,
            summary=Summary(value=[Summary.Value(tag="val/map", simple_value=0.0)]),
        ),
    ]
    scratch = path.with_suffix(".part")
    with open(scratch, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    path.write_text(scratch.read_bytes().hex() + "\n")
    scratch.unlink()


def show(folder: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(folder)
    found.Reload()
    for tag in found.Tags()["scalars"]:
        values = found.Scalars(tag)
        steps = [value.step for value in values]
        assert steps == sorted(set(steps)), f"{tag}: steps twice"
        print(f"{tag}: {len(values)} values, first {values[0].value:.6g}, last {values[-1].value:.6g} at {steps[-1]}")


if len(sys.argv) > 1:
    show(sys.argv[1])
else:
    golden(pathlib.Path("tests/goldens/train/events.hex"))
