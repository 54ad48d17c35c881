"""Goldens of the ResNet50 encoders: the networks of four projects with made-up weights.

    OMP_NUM_THREADS=1 python tests/oracle/resnet50/make_goldens.py BASELINE FASTREID TORCHREID

The arguments are checkouts of reid-strong-baseline (MIT, commit 3da7e6f), fast-reid (Apache-2.0,
c9bc3ce; imports termcolor, yacs and tabulate) and deep-person-reid (MIT, f8cd150). Made with torch
2.15.0, torchvision 0.29.2, numpy 2.4.6 on x86-64, in double precision.

Writes `tests/goldens/resnet50/outputs.json`: for each variant every eighth number of the vectors of
made-up images, the vectors' lengths, and how far the reference's own single precision is off,
relative to the root mean square; and the tensor lists of all origins to
`tests/goldens/weights/resnet50-*.txt`.
"""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import torch
import torchvision
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import made_up  # noqa: E402

GOLDENS = HERE.parent.parent / "goldens"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SEEDS = [4, 5]
STEP = 8


def load(path: pathlib.Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sequence(nn.Module):
    """A backbone, the mean of its map, and parts by name one after the other."""

    def __init__(self, backbone, **parts):
        super().__init__()
        self.backbone = backbone
        self.names = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        x = self.backbone(x)
        x = x.mean((2, 3)) if x.dim() == 4 else x
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def torchvision_backbone(last_stride: int):
    network = torchvision.models.resnet50()
    if last_stride == 1:
        network.layer4[0].conv2.stride = (1, 1)
        network.layer4[0].downsample[0].stride = (1, 1)
    network.fc = nn.Identity()
    return network


class FastReid(nn.Module):
    """fastreid's backbone and head, as its `Baseline` joins them."""

    def __init__(self, pool_type: str, embedding_dim: int):
        super().__init__()
        from fastreid.modeling.backbones.resnet import Bottleneck, ResNet
        from fastreid.modeling.heads.embedding_head import EmbeddingHead

        self.backbone = ResNet(1, "BN", False, False, False, Bottleneck, [3, 4, 6, 3], [0] * 4)
        self.heads = EmbeddingHead(
            feat_dim=2048, embedding_dim=embedding_dim, num_classes=751, neck_feat="before",
            pool_type=pool_type, cls_type="Linear", scale=1, margin=0, with_bnneck=True,
            norm_type="BN",
        )

    def forward(self, x):
        return self.heads(self.backbone(x))


def prefixed(name: str):
    """torchvision's names under `backbone`, the rest as it is called here."""
    return name if name.split(".")[0] in ("backbone", "bn", "fc", "bn_feat") else None


def from_torchreid(name: str):
    if name.startswith("classifier."):
        return None
    for theirs, ours in [("fc.0.", "fc."), ("fc.1.", "bn_feat.")]:
        if name.startswith(theirs):
            return ours + name[len(theirs):]
    return f"backbone.{name}"


def from_baseline(name: str):
    if name.startswith("classifier."):
        return None
    return name.replace("base.", "backbone.").replace("bottleneck.", "bn.")


def from_fastreid(name: str, reduced: bool):
    if name == "heads.weight":
        return None
    neck = {"heads.bottleneck.0.weight": "fc.weight"} if reduced else {}
    if name in neck:
        return neck[name]
    norm = "heads.bottleneck.1." if reduced else "heads.bottleneck.0."
    if name.startswith(norm):
        return ("bn_feat." if reduced else "bn.") + name[len(norm):]
    return name.replace("heads.pool_layer.", "pool.")


def config(last_stride=1, stem="standard", pooling="average", neck=False, reduced=None, relu=False):
    return dict(
        last_stride=last_stride, stem=stem, pooling=pooling, neck=neck, reduced=reduced, relu=relu
    )


def variants(baseline: pathlib.Path, torchreid: pathlib.Path):
    """Name, configuration, network, from its names to ours, name of its tensor list."""
    theirs = load(torchreid / "torchreid/models/resnet.py", "torchreid_resnet")
    sys.modules.setdefault("modeling", type(sys)("modeling"))
    sys.path.insert(0, str(baseline))
    del sys.modules["modeling"]
    from modeling.baseline import Baseline

    norm = nn.BatchNorm1d
    yield "recipe", config(neck=True), Sequence(torchvision_backbone(1), bn=norm(2048)), prefixed, None
    reduced = Sequence(
        torchvision_backbone(2), bn=norm(2048), fc=nn.Linear(2048, 512), bn_feat=norm(512)
    )
    reduced.classifier = nn.Linear(512, 751)
    yield "512", config(2, neck=True, reduced=512), reduced, prefixed, "resnet50-512"
    network = Baseline(751, 1, "", "bnneck", "after", "resnet50", "no")
    yield "strong-baseline", config(1, "without_relu", neck=True), network, from_baseline, "resnet50-strong-baseline"
    network = FastReid("GlobalAvgPool", 0)
    yield (
        "fastreid", config(1, "ceiling", neck=True), network,
        lambda name: from_fastreid(name, False), "resnet50-fastreid",
    )
    network = FastReid("GeneralizedMeanPoolingP", 512)
    yield (
        "fastreid-gem-512", config(1, "ceiling", "generalized_mean", reduced=512), network,
        lambda name: from_fastreid(name, True), "resnet50-fastreid-gem-512",
    )
    network = theirs.resnet50(751, pretrained=False)
    yield "torchreid", config(2), network, from_torchreid, "resnet50-torchreid"
    network = theirs.resnet50_fc512(751, pretrained=False)
    yield "torchreid-512", config(1, reduced=512, relu=True), network, from_torchreid, "resnet50-torchreid-512"


def fill(network, rename) -> None:
    """Made-up weights; a reduction has two dimensions, fastreid's 1x1 convolution too."""
    state_dict = network.state_dict()
    made_up.fill(state_dict, rename)
    for name, tensor in state_dict.items():
        if rename(name) == "fc.weight":
            values = made_up.made_up("fc.weight", tensor.shape[:2])
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))


def run(network, double: bool) -> np.ndarray:
    rows = []
    for seed in SEEDS:
        pixels = torch.from_numpy(made_up.made_up_image(128, 256, seed)).permute(2, 0, 1)[None]
        dtype = torch.float64 if double else torch.float32
        mean, std = (torch.tensor(part, dtype=dtype).view(1, 3, 1, 1) for part in (MEAN, STD))
        with torch.no_grad():
            rows.append(network((pixels.to(dtype) / 255 - mean) / std)[0].double().numpy())
    return np.stack(rows)


def numbers(values, digits: int = 7) -> list:
    return [float(f"{value:.{digits}g}") for value in np.asarray(values).ravel()]


def write_list(name: str, state_dict) -> None:
    """One line a tensor; `.*` and `.**` stand for the tensors of a batch norm."""
    lines, seen = [], set()
    for key, tensor in state_dict.items():
        module = key.rsplit(".", 1)[0]
        if f"{module}.running_mean" in state_dict:
            if module not in seen:
                seen.add(module)
                lines.append(f"{module}.**\t{state_dict[module + '.weight'].shape[0]}")
            continue
        lines.append(f"{key}\t{' '.join(map(str, tensor.shape))}")
    (GOLDENS / "weights" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    baseline, fastreid, torchreid = map(pathlib.Path, sys.argv[1:4])
    sys.path.insert(0, str(fastreid))
    write_list("resnet50-torchvision", torchvision.models.resnet50().state_dict())
    cases = []
    for name, settings, network, rename, tensor_list in variants(baseline, torchreid):
        network.eval()
        if tensor_list:
            write_list(tensor_list, network.state_dict())
        fill(network, rename)
        single = run(network, double=False)
        double = run(network.double(), double=True)
        rms = np.sqrt((double**2).mean())
        cases.append({
            "name": name,
            "config": settings,
            "f32": numbers(np.abs(single - double).max() / rms, 3)[0],
            "images": [
                {
                    "seed": seed,
                    "length": numbers(np.linalg.norm(row))[0],
                    "every_8th": numbers(row[::STEP]),
                }
                for seed, row in zip(SEEDS, double)
            ],
        })
        cosine = double[0] @ double[1] / np.prod(np.linalg.norm(double, axis=1))
        print(name, "rms", rms, "f32", cases[-1]["f32"], "cosine", cosine, flush=True)
    text = json.dumps(cases, separators=(",", ":")).replace('{"name"', '\n{"name"')
    (GOLDENS / "resnet50").mkdir(parents=True, exist_ok=True)
    (GOLDENS / "resnet50" / "outputs.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
