"""Old identity hashes: until 26 November 2026 they contained every default.

Scores and label files from before that date carry such a hash. attar finds them by it and reuses them.
"""

from typing import Any

from attar.core.config import Config

_FIELDS = {
    "DataChoice": "size resize classes num_classes holdout validate_on mean std on_corrupt",
    "ViewChoice": "crop min_scale padding flip",
    "LookChoice": "crop min_scale padding flip patch_shuffle randaugment_ops randaugment_magnitude randaugment_std",
    "MixChoice": "kind alpha shared_by",
    "Codec": "kind k values remainder temperature",
    "Optimisation": "epochs batch_size accumulation_steps optimizer learning_rate schedule cosine_stretch rate_moves "
    "warmup_epochs momentum betas weight_decay decay_norms ema_decay",
    "Protocol": "name version training learning_rates views mix loss temperature temperature_squared hard_weight "
    "hard_classes label_smoothing label_batchnorm label_batch_size",
    "Header": "format codec images_sha256 num_images num_classes num_epochs pooled epochs_per_file height width views "
    "mix teacher",
}
"""The fields that each class had at that date, by the class's name; old hashes contain exactly these fields."""


def legacy_identity(config: Config) -> dict[str, Any]:
    """Return the plain values that an old hash was made of, and newer fields that are not at their default."""
    known, identity = _FIELDS[type(config).__name__].split(), config.identity()
    plain, found = config.plain(), dict[str, Any]()
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name in known:
            found[name] = legacy_identity(value) if isinstance(value, Config) else plain[name]
        elif name in identity:
            found[name] = plain[name]
    return found
