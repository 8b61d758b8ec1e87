"""A training that does not fit into memory ends in a sentence that names the setting which needs less."""

import contextlib
from collections.abc import Iterator

from attar.core.compiling import out_of_memory
from attar.core.errors import AttarError
from attar.training.choices import Optimisation


@contextlib.contextmanager
def explained(choice: Optimisation, settings: str) -> Iterator[None]:
    """Raise AttarError for a lack of memory in the block, a training as in ``choice``, which ``settings`` names."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        parts = choice.accumulation_steps
        cut = f" in {parts} parts" if parts > 1 else ""
        raise AttarError(
            f"Not enough memory to train with batches of {choice.batch_size} images{cut}; raise "
            f"--{settings}.accumulation-steps (now {parts}), which cuts each batch into more parts, and run the same "
            f"command again."
        ) from None
