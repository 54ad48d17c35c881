"""Whether weights converted from transformers' RT-DETR compute the same in the authors' code.

    python check_huggingface.py RTDETR_SOURCE MTMC_CONVERT

Builds transformers' RT-DETR with seeded random weights (batch norm statistics too), saves it,
converts it with the program MTMC_CONVERT, loads the result into the authors' PyTorch code
(RTDETR_SOURCE as for `make_goldens.py`; its names are ours) and compares both on one image. This
settles what shapes cannot: which norm is which, and the order of query, key and value.

Run by hand, as it needs both code bases. Last run with torch 2.15.0 and transformers 5.23:
largest difference of logits and boxes 2e-6 for r18 and r50.
"""

import subprocess
import sys
import tempfile
import unittest.mock

import torch
from safetensors.torch import load_file

source, converter = sys.argv[1:]
sys.path.insert(0, source)
for name in ("src.data", "src.data.coco", "src.data.functional"):
    sys.modules[name] = unittest.mock.MagicMock()
from src.core import YAMLConfig  # noqa: E402
from transformers import RTDetrConfig, RTDetrForObjectDetection  # noqa: E402

SIZES = {
    18: ([2, 2, 2, 2], "basic", [64, 128, 256, 512], {"hidden_expansion": 0.5, "decoder_layers": 3}),
    50: ([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048], {}),
}


def check(depth):
    depths, kind, widths, options = SIZES[depth]
    config = RTDetrConfig(num_labels=80, **options)
    config.backbone_config.hidden_sizes = widths
    config.backbone_config.depths = depths
    config.backbone_config.layer_type = kind
    config.encoder_in_channels = widths[1:]
    torch.manual_seed(depth)
    theirs = RTDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, tensor in list(theirs.named_parameters()) + list(theirs.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or name.endswith("bias"):
                tensor.add_(torch.empty_like(tensor).uniform_(-0.1, 0.1))
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.8, 1.2)
            elif tensor.dim() == 2 and tensor.std() == 0:  # the box heads start at zero
                tensor.normal_(0, 0.05)
    authors = YAMLConfig(f"{source}/configs/rtdetr/rtdetr_r{depth}vd_6x_coco.yml")
    authors.yaml_cfg["PResNet"]["pretrained"] = False
    authors = authors.model.eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        out = f"{folder}/converted.safetensors"
        subprocess.run([converter, f"{folder}/model.safetensors", "--out", out], check=True)
        missing, unexpected = authors.load_state_dict(load_file(out), strict=False)
    left = [n for n in missing if not n.endswith("num_batches_tracked")]
    left = [n for n in left if "denoising" not in n and n.split(".")[-1] not in ("anchors", "valid_mask")]
    assert not left and not unexpected, (left, unexpected)
    image = torch.rand(1, 3, 640, 640)
    with torch.no_grad():
        a, b = theirs(pixel_values=image), authors(image)
    # Cells of equal score may become queries in either order: each finds its nearest.
    x = torch.cat([a.logits, a.pred_boxes], -1)[0]
    y = torch.cat([b["pred_logits"], b["pred_boxes"]], -1)[0]
    nearest = torch.cdist(x, y, p=float("inf")).min(1)
    difference = nearest.values.max().item()
    pairs = len(nearest.indices.unique())
    print(f"r{depth}: largest difference {difference:.1e}, {pairs} of {len(x)} queries paired,"
          f" spread of logits {a.logits.std():.2f}, of boxes {a.pred_boxes.std():.2f}")
    assert difference < 1e-3 and pairs == len(x)


for size in SIZES:
    check(size)
