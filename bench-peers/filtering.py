"""What minimal filtering of a 3x3 convolution costs in digits if its products are taken in bfloat16.

    python filtering.py

Prints the root mean square error of plain sums and of filtered ones, F(2x2, 3x3) and F(4x4, 3x3) by the
points that the library's own f32 kernel uses, relative to the exact sums: 200 tiles of 128 made-up
channels, not negative as after a ReLU. Needs numpy.
"""

import numpy as np

CHANNELS = 128
TILES = 200


def bfloat16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


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
        values = bfloat16(np.einsum("ij,tcjk,lk->tcil", inputs, tiles, inputs))
        weights = bfloat16(np.einsum("ij,cjk,lk->cil", kernels, kernel, kernels))
        products = np.einsum("tcil,cil->til", values, weights)
        filtered = np.einsum("ij,tjk,lk->til", outputs, products, outputs)
        check = np.einsum(
            "ij,tjk,lk->til",
            outputs,
            np.einsum(
                "tcil,cil->til",
                np.einsum("ij,tcjk,lk->tcil", inputs, tiles, inputs),
                np.einsum("ij,cjk,lk->cil", kernels, kernel, kernels),
            ),
            outputs,
        )
        assert np.allclose(check, exact), "the transforms are wrong"
        error = lambda found: np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean())
        rounded = plain(bfloat16(tiles), bfloat16(kernel), side)
        print(f"F({side}x{side}, 3x3): plain {error(rounded):.4f}, filtered {error(filtered):.4f}")


if __name__ == "__main__":
    main()
