"""What a user should know of the numbers of images by class before hours are spent."""

from collections.abc import Sequence

import numpy as np

from attar.core.log import Log

UNEVEN = 10
"""How many times as many images the largest class has as the smallest one, before it is worth a warning."""
_SHOWN = 5


def warn(classes: Sequence[str], train: np.ndarray, val: np.ndarray, log: Log) -> None:
    """Warn of classes without validation images and of uneven ones; ``train`` and ``val`` count each class's images."""
    unseen = [name for name, count in zip(classes, val.tolist(), strict=True) if count == 0]
    if unseen:
        shown = ", ".join(f"'{name}'" for name in unseen[:_SHOWN])
        more = f" and {len(unseen) - _SHOWN} more" if len(unseen) > _SHOWN else ""
        log.warn(
            f"{len(unseen)} of {len(classes)} classes have no validation images ({shown}{more}): they are trained "
            f"on and distilled, but no accuracy says anything about them"
        )
    fewest, most = int(train.argmin()), int(train.argmax())
    if train[most] >= UNEVEN * train[fewest]:
        log.warn(
            f"the classes are uneven: {train[most]:,} training images of '{classes[most]}' and {train[fewest]:,} of "
            f"'{classes[fewest]}', {train[most] / train[fewest]:.0f} times as many; look at the mean accuracy over "
            f"classes, because accuracy over images hides the small ones"
        )
