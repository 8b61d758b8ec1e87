"""Datasets on the Hugging Face Hub: their names, access to them, and their files; errors are one sentence.

Access tokens are those of the Hub's own client (HF_TOKEN, or ``hf auth login``). They are never printed or stored, and
HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to that client.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.core.errors import AttarError

PREFIX = "hf:"
FILES = ("dataset.json", "README.md", "recipe.yaml", "data/*.parquet", "labels/*", "teacher/*")
"""Files of a distilled set that are downloaded; '*' also matches '/'."""
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", flags=re.ASCII)
LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"
"""What to do about a dataset that needs an access token, for error sentences."""
_AGAIN = "check the network and HF_ENDPOINT, then repeat the command, which continues where it stopped"


def is_name(text: str) -> bool:
    """Return whether a text has the form ORG/NAME, as datasets of the Hub are named."""
    parts = text.split("/")
    fits = _NAME.fullmatch(text) is not None and all(len(part) <= 96 and part[-1] not in ".-" for part in parts)
    return fits and "--" not in text and ".." not in text and not text.endswith(".git")


def name_in(text: str) -> str:
    """Return ORG/NAME from a text with or without 'hf:'; raises AttarError when it is malformed."""
    name = text.removeprefix(PREFIX)
    if re.match(r"[/~.\\]", text):
        raise AttarError(
            f"'{text}' is not a name on the Hub; for a folder of this machine write its address, "
            f"{Path(text).expanduser().absolute().as_uri()}."
        )
    if not is_name(name):
        raise AttarError(
            f"'{text}' is not a name on the Hub; write ORG/NAME with letters, digits, '-', '_' and '.', such as "
            f"my-name/digits-distilled, or an address: s3://BUCKET/FOLDER, or file:///FOLDER for a folder of this "
            f"machine."
        )
    return name


def fetch(name: str, revision: str = "", into: Path | None = None) -> Path:
    """Download a distilled set, and return its folder: in the Hub's cache, or ``into``.

    Files that are there already are not downloaded again; without a network, or with HF_HUB_OFFLINE, the cache serves.
    Raises AttarError when the set cannot be had.
    """
    import huggingface_hub

    hide_progress()
    with explained(name):
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision or None, allow_patterns=list(FILES), local_dir=into
        )
    return Path(folder)


def hide_progress() -> None:
    """Turn the progress bars of the Hub's client off where nobody sees them move."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


def refuse_offline() -> None:
    """Raise AttarError when HF_HUB_OFFLINE forbids to use the network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise AttarError("HF_HUB_OFFLINE is set, so nothing can be sent to the Hub; unset it to push.")


def refuse_without_token() -> None:
    """Raise AttarError when the Hub's client has no access token."""
    import huggingface_hub

    if not huggingface_hub.get_token():
        raise AttarError(f"There is no access token of the Hugging Face Hub; {LOG_IN}.")


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client about the dataset ``name`` into AttarError, without access tokens."""
    try:
        yield
    except AttarError:
        raise
    except Exception as error:  # the client, its network libraries and the operating system raise errors of many kinds
        raise AttarError(_sentence(error, name)) from None


def _sentence(error: BaseException, name: str) -> str:
    from huggingface_hub import constants, errors

    chain = list(_causes(error))
    known: Any = next((one for one in chain if isinstance(one, errors.HfHubHTTPError)), None)
    if any(isinstance(one, errors.OfflineModeIsEnabled) for one in chain) or (
        constants.HF_HUB_OFFLINE and isinstance(error, errors.LocalEntryNotFoundError)
    ):
        return f"HF_HUB_OFFLINE is set, and '{name}' is not whole in the Hub's cache; unset it to download the dataset."
    if isinstance(known, errors.GatedRepoError):
        return f"Access to '{name}' is restricted; ask for it on the dataset's page, then {LOG_IN}."
    if isinstance(known, errors.RevisionNotFoundError):
        return f"'{name}' has no such revision on the Hub; check it on the dataset's page."
    status = getattr(getattr(known, "response", None), "status_code", None)
    if isinstance(known, errors.RepositoryNotFoundError) or status == 401:
        return f"The Hub has no dataset '{name}' that you may use; check the name, and for a private one {LOG_IN}."
    if status == 403:
        return (
            f"The Hub refuses to change '{name}' ({_reason(known)}); use a token that may write there, or another name."
        )
    if status is not None and 400 <= status < 500:
        return f"The Hub refuses '{name}' ({_reason(known)}); fix that and repeat the command."
    return f"The Hub cannot be reached for '{name}' ({_reason(chain[-1])}); {_AGAIN}."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what led to it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _reason(error: BaseException) -> str:
    """Return the error's first line without a full stop, and without the access token."""
    import huggingface_hub

    text = getattr(error, "server_message", None) or str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "") or type(error).__name__
    with contextlib.suppress(Exception):
        line = line.replace(huggingface_hub.get_token() or "\0", "...")
    return line.rstrip(".")
