"""Goldens of OSNet: torchreid's own network on real and on made-up weights.

    OMP_NUM_THREADS=1 python tests/oracle/osnet/make_goldens.py REFERENCE SHARED

REFERENCE holds `osnet.py` and `osnet_ain.py` of deep-person-reid (MIT), `torchreid/models` at
commit f8cd150; SHARED is the shared test material. Made with torch 2.15.0, torchvision 0.29.2,
Pillow 13.0.0, numpy 2.4.6 on x86-64, networks in double precision.

- `crops.json`: boxes in frames (a picture of the shared material and made-up images), sums and
  samples of what Pillow makes of them, and the vectors of the real weights.
- `made-up.json`: every eighth number of the vectors of made-up images with made-up weights.
- `tensors.json`: per architecture the number of tensors, of parameters (without the statistics of
  batch norms), and a digest of names and shapes.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torchvision
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import made_up  # noqa: E402

GOLDENS = HERE.parent.parent / "goldens" / "osnet"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PICTURE = "reference/rtdetr-l/input-640.png"
# frame, box: people as they stand in the picture, parts of them, boxes over its edges, and made-up
# frames of other sizes.
CROPS = [
    ("picture", [39.5, 236.4, 193.6, 535.1]),
    ("picture", [528.6, 232.3, 645.0, 519.7]),
    ("picture", [174.6, 240.0, 271.8, 507.9]),
    ("picture", [-7.9, 325.9, 49.8, 517.3]),
    ("picture", [60.0, 240.0, 81.7, 290.2]),
    ("made-up 320 256 3", [10.7, -20.0, 150.2, 260.9]),
    ("made-up 96 410 8", [0.0, 3.0, 96.0, 410.0]),
]
REAL = [("market1501", [0, 1, 2, 3, 4, 5, 6]), ("msmt17", [0, 2, 6])]
ARCHITECTURES = [
    "osnet-x0.25", "osnet-x0.5", "osnet-x0.75", "osnet-x1.0", "osnet-ibn-x1.0",
    "osnet-ain-x0.25", "osnet-ain-x0.5", "osnet-ain-x0.75", "osnet-ain-x1.0",
]
SEEDS = [4, 5]


def build(architecture: str, classes: int = 2):
    import osnet
    import osnet_ain

    name = architecture.replace("-", "_").replace(".", "_")
    module = osnet_ain if "ain" in name else osnet
    return getattr(module, name)(num_classes=classes, pretrained=False).eval()


def frame(name: str, shared: pathlib.Path) -> np.ndarray:
    if name == "picture":
        return np.asarray(Image.open(shared / PICTURE).convert("RGB"))
    return made_up.made_up_image(*(int(part) for part in name.split()[1:]))


def crop(image: np.ndarray, box) -> Image.Image:
    """Corners cut to whole numbers and clamped to the frame, resized as torchreid does it."""
    height, width = image.shape[:2]
    x1, x2 = (min(max(int(x), 0), width) for x in box[::2])
    y1, y2 = (min(max(int(y), 0), height) for y in box[1::2])
    return torchvision.transforms.Resize((256, 128))(Image.fromarray(image[y1:y2, x1:x2]))


def network_input(image: Image.Image) -> torch.Tensor:
    tensor = torchvision.transforms.functional.to_tensor(image)
    return torchvision.transforms.functional.normalize(tensor, MEAN, STD)[None]


def numbers(values, digits: int = 7) -> list:
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=np.float64).ravel()]


def unit(vector: torch.Tensor) -> np.ndarray:
    vector = vector.double().numpy().ravel()
    return vector / np.linalg.norm(vector)


def run(model, inputs) -> list:
    """Unit vectors in double precision; prints how far single precision is off."""
    with torch.no_grad():
        single = [unit(model.float()(x)) for x in inputs]
        double = [unit(model.double()(x.double())) for x in inputs]
    off = max(np.abs(a - b).max() for a, b in zip(single, double))
    print(f"  single precision is off by {off:.1e}; share of zeros",
          f"{np.mean([np.mean(v == 0) for v in double]):.2f}")
    return double


def crops(shared: pathlib.Path) -> dict:
    resized = [crop(frame(name, shared), box) for name, box in CROPS]
    listed = []
    for (name, box), image in zip(CROPS, resized):
        pixels = np.asarray(image).astype(int).ravel()
        listed.append({"frame": name, "box": box, "sum": int(pixels.sum()),
                       "every_997th": pixels[::997].tolist()})
    vectors = []
    for weights, chosen in REAL:
        path = shared / f"weights/reid-osnet/osnet_x0_25_{weights}.pth"
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        model = build("osnet-x0.25", tensors["classifier.weight"].shape[0])
        model.load_state_dict(tensors)
        print(weights)
        outputs = run(model, [network_input(resized[index]) for index in chosen])
        for index, vector in zip(chosen, outputs):
            vectors.append({"weights": weights, "crop": index, "vector": numbers(vector, 6)})
    return {"picture": PICTURE, "crops": listed, "vectors": vectors}


def digest(shapes: dict) -> str:
    lines = [f"{name}:{','.join(map(str, shape))}\n" for name, shape in shapes.items()]
    return f"{made_up.fnv1a(''.join(sorted(lines))):016x}"


def made_up_vectors():
    outputs, tensors = [], {}
    images = [Image.fromarray(made_up.made_up_image(128, 256, seed)) for seed in SEEDS]
    inputs = [network_input(image) for image in images]
    for architecture in ARCHITECTURES:
        model = build(architecture)
        state = model.state_dict()
        skipped = ("classifier.", "num_batches_tracked")
        made_up.fill(state, lambda name: None if name.startswith("classifier.") else name)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()
                  if not any(part in name for part in skipped)}
        learnt = [name for name in shapes if ".running_" not in name]
        tensors[architecture] = {
            "tensors": len(shapes),
            "parameters": int(sum(np.prod(shapes[name]) for name in learnt)),
            "digest": digest(shapes),
        }
        print(architecture)
        for seed, vector in zip(SEEDS, run(model, inputs)):
            outputs.append({"architecture": architecture, "seed": seed,
                            "every_8th": numbers(vector[::8], 6)})
    return outputs, tensors


def write(name: str, content) -> None:
    text = json.dumps(content, separators=(",", ":"))
    for start in ('{"frame"', '{"weights"', '{"architecture"', '"osnet-'):
        text = text.replace(start, "\n" + start)
    (GOLDENS / f"{name}.json").write_text(text.replace('{"architecture":\n', '{"architecture":') + "\n")


def main() -> None:
    reference, shared = (pathlib.Path(argument) for argument in sys.argv[1:3])
    sys.path.insert(0, str(reference))
    GOLDENS.mkdir(parents=True, exist_ok=True)
    write("crops", crops(shared))
    outputs, tensors = made_up_vectors()
    write("made-up", outputs)
    write("tensors", tensors)


if __name__ == "__main__":
    main()
