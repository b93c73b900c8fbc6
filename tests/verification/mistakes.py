"""Mistakes that learners make: edits of npgpt.ops, ten or more a function.

A line is `what | right | wrong`, and `right` stands once in the function's body.
"""
# ruff: noqa: E501

from __future__ import annotations

import inspect

from npgpt import ops

TABLE = {
    "softmax": """
no maximum | - xp.max(x, axis=-1, keepdims=True) |
the maximum of all rows | xp.max(x, axis=-1, keepdims=True) | xp.max(x)
the minimum | xp.max(x, | xp.min(x,
sum over the wrong axis | xp.sum(e, axis=-1 | xp.sum(e, axis=-2
sum over everything | xp.sum(e, axis=-1, keepdims=True) | xp.sum(e)
powers of two | xp.exp( | xp.exp2(
its logarithm | e / xp.sum(e, | xp.log(e) - xp.sum(e,
widened | xp.exp(x | xp.exp(x.astype(float)
something against a division by 0 | / xp.sum(e, axis=-1, keepdims=True) | / (xp.sum(e, axis=-1, keepdims=True) + 1e-4)
scores clipped | xp.exp(x | xp.exp(xp.clip(x, -50, 50)
the axis dropped | xp.sum(e, axis=-1, keepdims=True) | xp.sum(e, axis=-1)
written into its argument | e = xp.exp( | x *= 1; e = xp.exp(
the largest takes it all | return e / | return (e == 1).astype("float32"); e /
""",
    "log_softmax": """
log of softmax | return below - | return xp.log(softmax(x)); below -
no maximum | - xp.max(x, axis=-1, keepdims=True) |
the maximum of all rows | xp.max(x, axis=-1, keepdims=True) | xp.max(x)
in bits | below - xp.log( | below - xp.log2(
no exp | xp.exp(below) | below
sum over the wrong axis | xp.sum(xp.exp(below), axis=-1 | xp.sum(xp.exp(below), axis=-2
the mean | xp.sum( | xp.mean(
added | return below - | return below +
one added | xp.log( | xp.log1p(
the maximum is not given back | return below - | return x -
below the maximum only | return below - | return below; x -
widened | xp.exp(below) | xp.exp(below.astype(float))
""",
    "cross_entropy": """
the sum | / math.prod(targets.shape) |
no minus | return -float( | return float(
in bits | / math.prod( | / math.log(2) / math.prod(
mean over rows alone | math.prod(targets.shape) | len(targets)
mean over the vocabulary too | math.prod(targets.shape) | z.size
probabilities | log_softmax(z) | softmax(z)
logits | log_softmax(z) | z
log of softmax | log_softmax(z) | xp.log(softmax(z))
the next id | targets[..., None] == | targets[..., None] + 1 ==
times one-hot | xp.where(hit, log_softmax(z), xp.zeros_like(z)) | hit * log_softmax(z)
the perplexity | return -float( | return 1 - float(
clipped | log_softmax(z) | xp.maximum(log_softmax(z), -100)
""",
    "gelu": """
ReLU | return 0.5 * x | return xp.maximum(x, 0 * x); 0.5 * x
the exact GELU | xp.tanh(u) | numpy.vectorize(math.erf)(x / 2**0.5).astype("float32")
the quick GELU | xp.tanh(u) | xp.tanh(0.851 * x)
no sqrt(2/pi) | math.sqrt(2 / math.pi) * |
pi / 2 | 2 / math.pi | math.pi / 2
0.44715 | 0.044715 | 0.44715
0.0446 | 0.044715 | 0.0446
the square | 0.044715 * x * x * x | 0.044715 * x * x
no half | 0.5 * x | x
minus | 1.0 + xp.tanh | 1.0 - xp.tanh
widened by np.sqrt | math.sqrt(2 / math.pi) | numpy.sqrt(2 / numpy.pi)
tanh by exp | xp.tanh(u) | (xp.exp(u) - xp.exp(-u)) / (xp.exp(u) + xp.exp(-u))
not times x | return 0.5 * x | return 0.5
""",
    "layer_norm": """
divided by C - 1 | xp.var(x, axis=-1, | xp.var(x, axis=-1, ddof=1,
epsilon's place | xp.sqrt(s + epsilon) | (xp.sqrt(s) + epsilon)
no epsilon | xp.sqrt(s + epsilon) | xp.sqrt(s)
its own epsilon | s + epsilon | s + 1e-5
another epsilon | s + epsilon | s + epsilon / 10
no mean | (x - m) | x
no weight | * weight |
no bias | + bias |
the variance for the deviation | xp.sqrt(s + epsilon) | (s + epsilon)
bias before weight | * weight + bias | * weight + bias * weight
over the wrong axis | xp.mean(x, axis=-1 | xp.mean(x, axis=0
mean of everything | xp.mean(x, axis=-1, keepdims=True) | xp.mean(x)
mean of squares less the mean's | s = xp.var(x, axis=-1, | s = -m * m + xp.mean(x * x, axis=-1,
widened | (x - m) | (x - m).astype(float)
""",
    "embedding": """
columns | xp.take(weight, | xp.take(weight.T,
the row before | xp.reshape(ids, (-1,)) | xp.reshape(ids, (-1,)) - 1
columns by axis | axis=0 | axis=1
times sqrt(C) | return xp.reshape(rows | return xp.reshape(rows * math.sqrt(rows.shape[-1])
ids transposed | xp.reshape(ids, | xp.reshape(ids.T,
ids sorted | xp.reshape(ids, | xp.reshape(xp.sort(ids),
flat | return xp.reshape( | return rows; xp.reshape(
length 1 | xp.reshape(rows, | xp.reshape(rows / xp.linalg.norm(rows, axis=-1)[:, None],
ids not counted from 0 | xp.reshape(ids, (-1,)) | xp.reshape(ids, (-1,)) + 1 - 7
widened | xp.take(weight, | xp.take(weight.astype(float),
the first row for all | xp.reshape(ids, (-1,)) | 0 * xp.reshape(ids, (-1,))
""",
    "linear": """
transposed | @ weight | @ weight.T
no bias | product if bias is None else product + bias | product
bias subtracted | product + bias | product - bias
times bias | product + bias | product * bias
bias twice | product + bias | product + 2 * bias
bias never None | product if bias is None else product + bias | product + bias
weight upside down | @ weight | @ weight[::-1]
rows mixed | xp.reshape(x, (-1, x.shape[-1])) | xp.reshape(x, (x.shape[-1], -1)).T
flat | return xp.reshape( | return y; xp.reshape(
divided by n | @ weight | @ weight / x.shape[-1]
ReLU after it | return xp.reshape(y | return xp.reshape(xp.maximum(y, 0)
widened | @ weight | @ weight.astype(float)
half precision | @ weight | @ weight.astype("float16").astype("float32")
""",
    "split_heads": """
heads first | (B, T, 3, n_head, | (B, T, n_head, 3,
positions before heads | (2, 0, 3, 1, 4) | (2, 0, 1, 3, 4)
D before T | (2, 0, 3, 1, 4) | (2, 0, 3, 4, 1)
k and v exchanged | x[1, ...], x[2, ...] | x[2, ...], x[1, ...]
q and k exchanged | x[0, ...], x[1, ...] | x[1, ...], x[0, ...]
q three times | x[0, ...], x[1, ...], x[2, ...] | x[0, ...], x[0, ...], x[0, ...]
H and D exchanged | n_head, width // 3 // n_head) | width // 3 // n_head, n_head)
only another shape | xp.permute_dims(x, (2, 0, 3, 1, 4)) | xp.reshape(x, (3, B, n_head, T, -1))
always two heads | n_head, width // 3 // n_head) | 2, width // 6)
heads in reverse | return x[0, ...] | return x[0, :, ::-1]
widened | xp.reshape(qkv, | xp.reshape(qkv.astype(float),
one array | return x[0, ...], x[1, ...], x[2, ...] | return x
""",
    "merge_heads": """
only another shape | xp.permute_dims(x, (0, 2, 1, 3)) | x
heads last | (0, 2, 1, 3) | (0, 2, 3, 1)
positions first | (0, 2, 1, 3) | (2, 0, 1, 3)
D first | (0, 2, 1, 3) | (0, 3, 1, 2)
rows and positions exchanged | (B, T, H * D) | (T, B, H * D)
positions last | (B, T, H * D) | (B, H * D, T)
flat | (B, T, H * D) | (B, T * H * D)
heads in reverse | permute_dims(x, | permute_dims(x[:, ::-1],
positions in reverse | permute_dims(x, | permute_dims(x[:, :, ::-1],
heads added | return xp.reshape( | return xp.sum(x, axis=1); xp.reshape(
widened | permute_dims(x, | permute_dims(x.astype(float),
""",
    "causal_mask": """
not itself | j <= i | j < i
the future | j <= i | j >= i
from the wrong corner | + (S - T) |
hidden for allowed | mask = j <= i | mask = j > i
transposed | mask = j <= i | mask = (j <= i).T
window one too wide | j > i - window | j >= i - window
window one too narrow | j > i - window | j > i - window + 1
window without the past | mask & (j > i - window) | j > i - window
window forgotten | if window is None | if True
numbers | mask = j <= i | mask = (j <= i).astype(int)
to be added | return mask if | return xp.where(mask, 0.0, -1e9) if
one too far | + (S - T) | + (S - T) + 1
""",
    "attention_scores": """
no scale | 1 / math.sqrt(D) | 1.0
divided by D | 1 / math.sqrt(D) | 1 / D
root of S | 1 / math.sqrt(D) | 1 / math.sqrt(S)
root of C | 1 / math.sqrt(D) | 1 / math.sqrt(q.shape[1] * D)
widened by np.sqrt | 1 / math.sqrt(D) | 1 / numpy.sqrt(D)
its own scale | if scale is None | if True
mask the other way round | = None if mask is None else mask | = None if mask is None else ~mask
mask forgotten | past & allowed | past
the past forgotten | past & allowed | allowed
only a square is causal | (T > 1 or window is not None) | T == S
hidden is 0 | -xp.inf | 0.0
hidden is -10000 | -xp.inf | -1e4
keys not transposed | xp.permute_dims(k, (0, 1, 3, 2)) | xp.reshape(k, (*k.shape[:2], D, S))
window forgotten | window=window | window=None
from the wrong corner | causal_mask(T, S, window=window, xp=xp) | causal_mask(S)[:T]
""",
    "attention": """
no softmax | softmax(scores) | scores
softmax over the wrong axis | softmax(scores) | softmax(scores.mT).mT
always causal | causal=causal | causal=True
never causal | causal=causal | causal=False
mask forgotten | mask=mask | mask=None
mask the other way round | mask=mask | mask=None if mask is None else ~mask
window forgotten | window=window | window=None
scale forgotten | scale=scale | scale=None
scaled twice | scale=scale | scale=(scale or q.shape[-1] ** -0.5) ** 2
means of the keys | @ v | @ k
from the wrong corner | softmax(scores) | softmax(scores + numpy.log(numpy.tri(*scores.shape[2:], dtype="f")))
masked after softmax | softmax(scores) | softmax(scores + 0) * (scores > 0)
hidden is -10000 | softmax(scores) | softmax(numpy.maximum(scores, -1e4))
widened | softmax(scores) | softmax(scores.astype(float))
""",
}


def learners_file(name: str, right: str, wrong: str) -> str:
    """The text of npgpt/ops.py with one mistake in one function."""
    function = inspect.getsource(getattr(ops, name))
    head, quotes, body = function.rpartition('"""')
    assert body.count(right) == 1, f"{name}: {right!r}"
    everything = inspect.getsource(ops)
    return everything.replace(function, head + quotes + body.replace(right, wrong))


MISTAKES = {
    (name, what): learners_file(name, right, wrong)
    for name, table in TABLE.items()
    for line in table.strip().splitlines()
    for what, right, wrong in [[part.strip() for part in line.split(" |")]]
}
