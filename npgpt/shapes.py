"""The types of arrays in signatures: `Float[Array, "B T C"]` says dtype and shape.

Where jaxtyping is loaded first, as in the suite, these annotations can be checked at
every call; everywhere else they are text that nobody evaluates, and nothing is needed.
The dimensions' names are in npgpt.ops.
"""

import sys
from typing import TYPE_CHECKING, Any

Array = Any  # an array of NumPy, CuPy or array-api-strict

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    import numpy as np
    from jaxtyping import Bool, Float, Int, Int64, UInt64

    Logits = Float[np.ndarray, " V"]  # of one position, or what rules made of them
else:
    Bool = Float = Int = Int64 = UInt64 = Logits = Any

__all__ = ["Array", "Bool", "Float", "Int", "Int64", "Logits", "UInt64"]
