"""The phi functions of exponential integrators: phi_m(z) = sum_{i>=0} z^i / (m + i)!."""

import math


def z_phi(m: int, z: float) -> float:
    """z phi_{m+1}(z) = (e^z - 1 - z - ... - z^m / m!) / z^m; summed as a series where that form would cancel."""
    if abs(z) > 1:
        return (math.expm1(z) - sum(z**i / math.factorial(i) for i in range(1, m + 1))) / z**m
    return sum(z**i / math.factorial(m + i) for i in range(1, 25))
