"""Made-up weights and images: the Python twin of `models/src/testing.rs`.

Both sides compute the same numbers from a tensor's name and shape, so parity tests store outputs
only. Whoever changes a rule here changes it there, and makes all goldens anew.
"""

import numpy as np

GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
# Three times the mean square of a weight times its fan-in. A convolution is followed by an
# activation that takes about half of the power, a linear layer mostly is not; with these gains
# signals keep their size through deep networks. Without residuals, or with SiLU everywhere, which
# takes more of small signals, more is needed: Ultralytics' networks, whose names begin with
# `model.`.
CONV_GAIN = 4.5
SILU_CONV_GAIN = 6.5
LINEAR_GAIN = 3.0


def fnv1a(name: str) -> int:
    """FNV-1a, 64 bits, of the name's UTF-8."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first `count` draws of splitmix64 from `seed`, as uint64."""
    steps = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + steps * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def made_up(name: str, shape) -> np.ndarray:
    """The made-up tensor of that name and shape, float32."""
    shape = tuple(int(size) for size in shape)
    count = int(np.prod(shape, dtype=np.int64))
    if name.endswith("dfl.conv.weight"):
        # Not learnt: the value of each bin of a distance's distribution.
        return np.arange(count, dtype=np.float32).reshape(shape)
    u = (splitmix64(fnv1a(name), count) >> np.uint64(40)).astype(np.float64) / float(1 << 24)
    if name.endswith("running_var"):
        offset, scale = 0.5, 1.0
    elif name.endswith("bias") or name.endswith("running_mean"):
        offset, scale = -0.1, 0.2
    elif len(shape) >= 2:
        gain = LINEAR_GAIN
        if len(shape) >= 4:
            gain = SILU_CONV_GAIN if name.startswith("model.") else CONV_GAIN
        bound = float(np.sqrt(gain / float(np.prod(shape[1:], dtype=np.int64))))
        offset, scale = -bound, 2.0 * bound
    else:
        offset, scale = 0.8, 0.4
    values = offset + scale * u
    return values.astype(np.float32).reshape(shape)


def fill(state_dict, rename=lambda name: name) -> None:
    """Overwrites every tensor of a torch module's `state_dict` in place.

    `rename` gives the name that seeds a tensor, or None to leave the tensor as it is.
    """
    import torch

    for name, tensor in state_dict.items():
        seed_name = rename(name)
        if seed_name is None or name.endswith("num_batches_tracked"):
            continue
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(made_up(seed_name, tensor.shape)))


def made_up_image(width: int, height: int, seed: int) -> np.ndarray:
    """An RGB image `[height, width, 3]`, uint8: slow waves and some noise, in integers alone."""
    y, x, c = np.meshgrid(
        np.arange(height, dtype=np.int64),
        np.arange(width, dtype=np.int64),
        np.arange(3, dtype=np.int64),
        indexing="ij",
    )
    slow = wave(x + (c + 1) * y + 37 * seed, 64)
    quick = wave((c + 2) * x + 3 * y * (seed % 5 + 1), 96 - 16 * c)
    noise = (splitmix64(seed, width * height * 3) >> np.uint64(58)).astype(np.int64)
    return ((slow * 2 + quick) // 4 + noise.reshape(height, width, 3)).astype(np.uint8)


def wave(t: np.ndarray, half: int) -> np.ndarray:
    """A triangle wave of period `2 * half` between 0 and 255, by integer division."""
    return np.abs(t % (2 * half) - half) * 255 // half
