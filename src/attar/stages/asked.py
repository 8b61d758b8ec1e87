"""Whether a run asks its teachers anything: for images, for labels, or for a row of the table."""

from attar.stages.choices import Evaluate, Relabel
from attar.stages.methods import method_named
from attar.stages.rows import FULL, real_sets
from attar.synthesis.method import Needs


def asks_teachers(needs: Needs, labelling: Relabel, judging: Evaluate) -> bool:
    """Return whether images with these ``needs``, their labels or a row of the table need trained teachers."""
    if labelling.mode != "none" or needs.teachers != "none":
        return True
    if FULL in judging.rows and judging.full_data == "teacher":
        return True
    sets = (method_named(name).Config() for name in real_sets(judging.rows))
    return any(config.needs().teachers != "none" for config in sets)
