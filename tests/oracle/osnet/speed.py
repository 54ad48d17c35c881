"""Crops a second of torchreid's OSNet in PyTorch and ONNX Runtime, beside
`cargo bench -p mtmc-models --bench encoders`.

    python tests/oracle/osnet/speed.py REFERENCE [ARCHITECTURE …] [BATCH …]

REFERENCE as for `make_goldens.py`. torch 2.15.0, onnxruntime, random weights, f32, all cores.
"""

import os
import sys
import time

import numpy as np
import torch

from make_goldens import build

SECONDS = 2.0


def report(what: str, batch: int, run) -> None:
    run()
    start, rounds = time.perf_counter(), []
    while time.perf_counter() - start < SECONDS or len(rounds) < 3:
        begin = time.perf_counter()
        run()
        rounds.append(time.perf_counter() - begin)
    rounds.sort()
    best, median = rounds[0], rounds[len(rounds) // 2]
    print(f"{what}: {batch / best:.1f} crops/s at best, {batch / median:.1f} in the median", flush=True)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    arguments = sys.argv[2:]
    batches = [int(a) for a in arguments if a.isdigit()] or [1, 8, 32]
    names = [a for a in arguments if not a.isdigit()] or ["osnet-x0.25"]
    for name in names:
        model = build(name)
        for batch in batches:
            x = torch.randn(batch, 3, 256, 128)
            with torch.inference_mode():
                report(f"{name}, batch {batch}, torch", batch, lambda: model(x))
        try:
            import onnxruntime

            path = f"/tmp/{name}-{os.getpid()}.onnx"
            torch.onnx.export(model, (torch.randn(1, 3, 256, 128),), path, input_names=["x"],
                              dynamic_axes={"x": {0: "n"}}, dynamo=False)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            os.remove(path)
        except Exception as error:  # the exporter needs packages of its own
            print("no ONNX Runtime:", str(error)[:200])
            continue
        for batch in batches:
            x = np.random.randn(batch, 3, 256, 128).astype(np.float32)
            report(f"{name}, batch {batch}, onnxruntime", batch, lambda: session.run(None, {"x": x}))


if __name__ == "__main__":
    main()
