"""Fit the Chebyshev series of npgpt.activations.erf; print it and its error.

    python tools/fit_erf.py

The function fitted is log(erfc(x) exp(x^2)), smooth on [0, 6], in the variable
t = 4 / (4 + x) stretched to [-1, 1]; beyond 6 erf is 1 in float64.
"""

import math

import numpy as np
from numpy.polynomial import chebyshev

T_MIN, DEGREE = 4 / (4 + 6), 20


def scaled_log_erfc(u: np.ndarray) -> np.ndarray:
    """log(erfc(x) exp(x^2)) at the points u in [-1, 1]."""
    x = 4 / ((u + 1) / 2 * (1 - T_MIN) + T_MIN) - 4
    return np.array([math.log(math.erfc(v)) + v * v for v in x])


if __name__ == "__main__":
    series = chebyshev.chebinterpolate(scaled_log_erfc, DEGREE)
    for c in series:
        print(f"    {c:.16e},")
    x = np.linspace(0, 6, 10_001)
    u = 2 * (4 / (4 + x) - T_MIN) / (1 - T_MIN) - 1
    erf = 1 - np.exp(chebyshev.chebval(u, series) - x * x)
    print("largest error:", np.abs(erf - [math.erf(v) for v in x]).max())
