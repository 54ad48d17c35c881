"""Twenty steps of each optimiser and twenty epochs of each schedule by PyTorch.

Writes tests/goldens/train/optim.json. Run from the repository with torch 2.x and numpy:
    python tests/oracle/train_optim.py
Made with torch 2.15.0.
"""

import json
from pathlib import Path

import torch
from torch.optim import lr_scheduler as schedulers

from made_up import made_up

STEPS = 20
SIZE = (3, 4)


def rounded(values):
    return [float(f"{value:.9g}") for value in values]


def gradient(name, step):
    return torch.from_numpy(made_up(f"{name}.gradient.{step}", SIZE)).double()


def run(make, clip=None):
    """The parameters `a` (decayed) and `b` (not decayed, twice the rate) after every fifth step."""
    a, b = (torch.from_numpy(made_up(name, SIZE)).double().requires_grad_() for name in "ab")
    optimizer = make([{"params": [a], "weight_decay": 0.05}, {"params": [b], "lr": 0.02}])
    found = []
    for step in range(STEPS):
        a.grad, b.grad = gradient("a", step), gradient("b", step)
        if clip:
            torch.nn.utils.clip_grad_norm_([a, b], clip)
        optimizer.step()
        if step % 5 == 4:
            both = torch.cat([a.detach().flatten(), b.detach().flatten()])
            found.append(rounded(both.tolist()))
    return found


def rates(make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make(optimizer)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rounded(found)


def main():
    optim = torch.optim
    chain = schedulers.ChainedScheduler
    goldens = {
        "torch": torch.__version__,
        "adam": run(lambda p: optim.Adam(p, lr=0.01)),
        "adamw": run(lambda p: optim.AdamW(p, lr=0.01, weight_decay=0)),
        "sgd": run(lambda p: optim.SGD(p, lr=0.01)),
        "sgd_momentum": run(lambda p: optim.SGD(p, lr=0.01, momentum=0.9)),
        "sgd_nesterov": run(lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
        "adam_clipped": run(lambda p: optim.Adam(p, lr=0.01), clip=0.5),
        "multi_step_linear": rates(
            lambda o: chain(
                [
                    schedulers.LinearLR(o, start_factor=0.01, total_iters=5),
                    schedulers.MultiStepLR(o, [8, 14], gamma=0.1),
                ]
            )
        ),
        "step_constant": rates(
            lambda o: chain(
                [
                    schedulers.ConstantLR(o, factor=0.25, total_iters=3),
                    schedulers.StepLR(o, 6, gamma=0.5),
                ]
            )
        ),
        "cosine": rates(lambda o: schedulers.CosineAnnealingLR(o, 20, eta_min=0.001)),
    }
    folder = Path(__file__).parent.parent / "goldens" / "train"
    folder.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items()]
    (folder / "optim.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
