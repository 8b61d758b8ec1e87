"""Methods by name."""

from typing import Any

from attar.core import plugin
from attar.core.errors import AttarError

METHODS = "attar.methods"


def method_named(name: str) -> Any:
    """Import a method: a file of ``attar.methods``, or a dotted path.

    Raises AttarError when the module does not exist, or lacks Config or recover.
    """
    module = plugin.resolve(METHODS, name, "method")
    missing = [part for part in ("Config", "recover") if not hasattr(module, part)]
    if missing:
        raise AttarError(
            f"The module '{name}' is not a method: it lacks {' and '.join(missing)} (see docs/methods.md)."
        )
    return module
