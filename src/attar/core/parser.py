"""The parser of verbs that take options of their own."""

import argparse
import difflib
import shlex
from collections.abc import Sequence
from typing import NoReturn

from attar.core.errors import AttarError


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence, like those of the other verbs."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def parsed(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the verb, options and others in any order.

        Raises AttarError for words that are missing, too many or wrong.
        """
        options, rest = self.parse_known_intermixed_args(list(words))
        if rest:
            raise self._not_known(rest[0])
        return options

    def error(self, message: str) -> NoReturn:
        """Raise AttarError, which names the verb's help."""
        raise AttarError(f"'{self.prog}': {message}; see '{self.prog} --help'.")

    def _not_known(self, word: str) -> AttarError:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if word.startswith("-"):
            flag = word.partition("=")[0]
            near = difflib.get_close_matches(flag, flags, n=1)
            fix = f"did you mean {near[0]}?" if near else f"see '{self.prog} --help'."
            return AttarError(f"'{self.prog}' has no option {flag}; {fix}")
        taken = " and ".join(str(action.metavar) for action in self._get_positional_actions()) or "no words"
        fix = (
            f"to write into that folder, add --out {shlex.quote(word)}"
            if "--out" in flags
            else f"see '{self.prog} --help'"
        )
        return AttarError(f"'{self.prog}' takes {taken}, and '{word}' is one word too many; {fix}.")
