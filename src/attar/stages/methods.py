"""Methods by name."""

from typing import Any

from attar.core import plugin
from attar.core.errors import AttarError
from attar.synthesis.method import MethodConfig

METHODS = "attar.methods"


def method_named(name: str) -> Any:
    """Import a method: a file of ``attar.methods``, or a dotted path.

    Raises AttarError when the module does not exist, cannot be imported, or lacks Config or recover.
    """
    module = plugin.resolve(METHODS, name, "method")
    missing = [part for part in ("Config", "recover") if not hasattr(module, part)]
    if missing:
        raise AttarError(
            f"The module '{name}' is not a method: it lacks {' and '.join(missing)} (see docs/add-a-method.md)."
        )
    if not (isinstance(module.Config, type) and issubclass(module.Config, MethodConfig)):
        raise AttarError(
            f"The Config of the method '{name}' is no configuration; derive it from "
            f"attar.synthesis.method.MethodConfig (see docs/add-a-method.md)."
        )
    return module
