"""Who does the jobs of a run: the processes of this launch, or a cluster."""

import contextlib
from pathlib import Path
from typing import Any

from attar.core import plugin
from attar.core.errors import AttarError
from attar.recipes.recipe import Recipe

LAUNCHERS = ("ray",)


def launched(
    name: str, address: str, recipe: Recipe[Any], out: Path, stage: str, quiet: bool
) -> contextlib.AbstractContextManager[None]:
    """Have the jobs of a run done by a launcher during the block; '' for this process or those of torchrun.

    Raises AttarError for an unknown launcher, and for what the launcher lacks.
    """
    if not name:
        if address:
            raise AttarError("--address is the address of a Ray cluster; add --launcher ray.")
        return contextlib.nullcontext()
    if name not in LAUNCHERS:
        raise plugin.unknown("launcher", name, LAUNCHERS)
    from attar.launch import cluster

    return cluster.started(recipe, out, stage, address, quiet)
