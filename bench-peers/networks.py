"""Times one network in ONNX Runtime, OpenVINO or PyTorch: what `cargo bench -p mtmc-models` is compared
with.

    python networks.py RUNTIME MODEL SIZES THREADS [SECONDS]

RUNTIME is ort, ov-f32 or ov-bf16 for an ONNX file, or for Ultralytics' own weights (.pt) torch-f32 or
torch-bf16, channels last, and compile-f32 or compile-bf16, the same by torch.compile; SIZES the input's shape, such as 1x3x640x640, for the first input
(a second one, DEIMv2's `orig_target_sizes`, gets the image's own size). Prints one line: the best and
the median time of a pass, and the CPU time of one, in milliseconds: where other programs compute
too, the CPU time of a single thread says more than the time that passed.

Needs onnxruntime 1.31.1, openvino 2026.4.1, or torch 2.15.0 and ultralytics 8.4.190, and numpy.
"""

import os
import statistics
import sys
import time

import numpy as np


def inputs(names, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    values = [image, np.array([[shape[3], shape[2]]] * shape[0], dtype=np.int64)]
    return dict(zip(names, values))


def onnx_runtime(path, shape, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = inputs([one.name for one in session.get_inputs()], shape)
    return lambda: session.run(None, feed)


def open_vino(path, shape, threads, precision):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    feed = inputs([one.get_any_name() for one in model.inputs], shape)
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer(feed)


def torch_module(path, shape, threads, compiled, precision):
    import torch
    from ultralytics import RTDETR, YOLO

    torch.set_num_threads(threads)
    kind = RTDETR if "rtdetr" in os.path.basename(path) else YOLO
    network = kind(path).model.float().eval().fuse(verbose=False)
    network.requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    image = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        network = torch.compile(network, dynamic=False)

    def run():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network(image)

    # The first passes compile.
    run()
    return run


def main():
    runtime, path, sizes, threads = sys.argv[1:5]
    seconds = float(sys.argv[5]) if len(sys.argv) > 5 else 6.0
    shape, threads = tuple(int(size) for size in sizes.split("x")), int(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if runtime == "ort":
        run = onnx_runtime(path, shape, threads)
    elif not runtime.startswith("ov-"):
        way, precision = runtime.split("-")
        run = torch_module(path, shape, threads, way == "compile", precision)
    else:
        run = open_vino(path, shape, threads, runtime.removeprefix("ov-"))
    run()
    times, busy, started = [], time.process_time(), time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    busy = (time.process_time() - busy) * 1e3 / len(times)
    name = os.path.basename(path)
    print(
        f"{runtime} {name} {sizes}, {threads} threads: {min(times):.2f} ms at best, "
        f"{statistics.median(times):.2f} in the median, {busy:.2f} ms of CPU time",
        flush=True,
    )


if __name__ == "__main__":
    main()
