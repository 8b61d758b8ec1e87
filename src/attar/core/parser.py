"""The parser of verbs that take options of their own."""

import argparse
from typing import NoReturn

from attar.core.errors import AttarError


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence, like those of the other verbs."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise AttarError, which names the verb's help."""
        raise AttarError(f"'{self.prog}': {message}; see '{self.prog} --help'.")
