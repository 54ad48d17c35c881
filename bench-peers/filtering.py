"""What minimal filtering of a 3x3 convolution costs in digits if its products are taken in bfloat16, or of
16-bit integers.

    python filtering.py

Prints the root mean square error of plain sums and of filtered ones, F(2x2, 3x3) and F(4x4, 3x3) by the
points that the library's own f32 kernel uses, relative to the exact sums: 200 tiles of 128 made-up
channels, not negative as after a ReLU. Integers are counted in units of their own for every tile and for
every kernel at each of the filter's places, as many as let sums of all channels fit 32 bits. Needs numpy.
"""

import numpy as np

CHANNELS = 128
TILES = 200


def bfloat16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def integers(x, most):
    """Rounded to units that are so many in the norm of all channels, the third axis from the right, at most."""
    norm = np.sqrt((x**2).sum(axis=-3, keepdims=True))
    unit = np.maximum(norm / most, np.abs(x).max(axis=-3, keepdims=True) / 32767)
    return np.rint(x / unit) * unit


def transforms(points, side):
    """Those of outputs, kernels and inputs, by Toom and Cook's method, with infinity as the last point."""
    size = side + 2
    outputs, kernels, inputs = np.zeros((side, size)), np.zeros((size, 3)), np.zeros((size, size))
    whole = np.array([1.0])
    for index, point in enumerate(points):
        outputs[:, index] = [point**power for power in range(side)]
        others = [other for other in points if other != point]
        scale = np.prod([point - other for other in others])
        kernels[index] = [point**power / scale for power in range(3)]
        polynomial = np.array([1.0])
        for other in others:
            polynomial = np.convolve(polynomial, [-other, 1.0])
        inputs[index, : len(polynomial)] = polynomial
        whole = np.convolve(whole, [-point, 1.0])
    outputs[-1, -1] = kernels[-1, -1] = 1.0
    inputs[-1, : len(whole)] = whole
    return outputs, kernels, inputs


def plain(tiles, kernel, side):
    found = np.zeros((TILES, side, side))
    for y in range(side):
        for x in range(side):
            found[:, y, x] = np.einsum("tcij,cij->t", tiles[:, :, y : y + 3, x : x + 3], kernel)
    return found


def main():
    generator = np.random.default_rng(0)
    for side, points in [(2, [0, 1, -1]), (4, [0, 1, -1, 2, -2])]:
        outputs, kernels, inputs = transforms([float(point) for point in points], side)
        shape = (TILES, CHANNELS, side + 2, side + 2)
        tiles = np.maximum(generator.standard_normal(shape), 0)
        kernel = generator.standard_normal((CHANNELS, 3, 3))
        exact = plain(tiles, kernel, side)
        values = np.einsum("ij,tcjk,lk->tcil", inputs, tiles, inputs)
        weights = np.einsum("ij,cjk,lk->cil", kernels, kernel, kernels)

        def back(values, weights):
            products = np.einsum("tcil,cil->til", values, weights)
            return np.einsum("ij,tjk,lk->til", outputs, products, outputs)

        assert np.allclose(back(values, weights), exact), "the transforms are wrong"
        halves = back(bfloat16(values), bfloat16(weights))
        fixed = back(integers(values, 32700), integers(weights, 65000))
        error = lambda found: np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean())
        rounded = plain(bfloat16(tiles), bfloat16(kernel), side)
        print(
            f"F({side}x{side}, 3x3): plain bfloat16 {error(rounded):.4f}, "
            f"filtered {error(halves):.4f}, of integers {error(fixed):.4f}"
        )


if __name__ == "__main__":
    main()
