"""Every error that npgpt raises on purpose: one sentence of what, where and what to do.

The command prints that sentence without a traceback and exits with status 1.
"""


class NpgptError(Exception):
    """Base of all errors raised on purpose."""


class CheckpointError(NpgptError):
    """A config or a weight file is missing, damaged or not what it claims to be."""


class TokenizerError(NpgptError):
    """A tokenizer file is missing or damaged, or a text or id does not fit it."""


class BackendError(NpgptError):
    """A backend, a dtype or a device is not available here."""


class ContextOverflowError(NpgptError):
    """A sequence needs more positions than the model has."""


class DecodingError(NpgptError):
    """Token ids, options or logits from which no next token can be chosen."""


class DataError(NpgptError):
    """A data file is not in the format that was asked for."""


class TrainingError(NpgptError):
    """Data, settings or numbers with which training cannot begin or go on."""


class InsideError(NpgptError):
    """An address, a trace or a lens that a model or a text does not have."""


class PlotError(NpgptError):
    """A figure that cannot be drawn, or not in the file that was named."""


class GridError(NpgptError):
    """A grid of settings to compare that is not one, or a comparison called wrongly."""
