"""Tiny weights files in every format that the converter reads: seeds for its tests and fuzzing.

    python make_corpus.py

Writes `tools/tests/corpus/*`. All but the hostile ones hold the same three tensors: `w` [2, 3] =
0, 0.5, … 2.5; `t`, its transpose (a view in PyTorch's files); `n`, the integer 7. `script.pt`, as
TorchScript saves modules, holds `w` and `n` in `parts.0` and twice `w`, in half precision, in
`parts.1`. The hostile
ones: `calls.pt` would run a command when Python loads it, `expanded.pt` claims 2^30 numbers and
stores one.

Made with Python 3.11, torch 2.15.0, onnx 1.23, safetensors.
"""

import os
import pathlib

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

CORPUS = pathlib.Path(__file__).resolve().parents[3] / "tools" / "tests" / "corpus"


class Calls:
    def __reduce__(self):
        return os.system, ("touch /tmp/mtmc-was-here",)


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(2, eps=1e-3)


class Part(torch.nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.w = torch.nn.Parameter(scale * torch.arange(6, dtype=torch.float32).reshape(2, 3) / 2)
        self.register_buffer("n", torch.tensor(7))

    def forward(self, x):
        return self.w @ x


class Script(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.Sequential(Part(1.0), Part(2.0).half())
        self.settings = [1, 2]

    def forward(self, x):
        return self.parts(x)


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    w = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 2
    tensors = {"w": w, "t": w.t(), "n": torch.tensor(7)}
    torch.save(tensors, CORPUS / "plain.pt")
    torch.save({"model": tensors}, CORPUS / "legacy.pth", _use_new_zipfile_serialization=False)
    half = {f"module.{key}": value.half() for key, value in tensors.items()}
    torch.save({"ema": {"module": half, "updates": 3}, "model": {}}, CORPUS / "half.pt")
    head = Head()
    head.names = {0: "person", 1: "bag"}
    torch.save({"model": head.half(), "ema": None}, CORPUS / "module.pt")
    torch.jit.save(torch.jit.script(Script()), CORPUS / "script.pt")
    torch.save({"w": w, "x": Calls()}, CORPUS / "calls.pt")
    torch.save({"w": torch.zeros(1).expand(1 << 30)}, CORPUS / "expanded.pt")
    plain = {key: value.contiguous() for key, value in tensors.items()}
    save_file(plain, CORPUS / "plain.safetensors")
    node = helper.make_node("MatMul", ["w", "t"], ["y"], name="/product")
    arrays = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in plain.items()]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 2])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [output], arrays)),
              CORPUS / "plain.onnx")


main()
