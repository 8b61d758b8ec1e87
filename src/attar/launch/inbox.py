"""Where the workers of a launch leave their reports; a Ray actor on the machine of the process that reads them."""

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """A report of a job to the process that the user started."""

    job: str
    attempt: str
    """Names this execution of the job; a retry has another one."""
    kind: str
    """'began', 'moved', 'say' or 'warn'."""
    text: str = ""
    """The machine, the note of the progress, or the sentence."""
    steps: float = 0.0
    """Steps done so far in this attempt."""
    earlier: float = 0.0
    """Those of them that an earlier process did."""
    values: Any = None
    """The last measured numbers."""


class Inbox:
    """Keeps reports until they are taken, and numbers the workers."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._numbers: dict[str, int] = {}
        self._came = asyncio.Event()

    async def number(self, worker: str) -> int:
        """Return the number of a worker; the first one is 1."""
        return self._numbers.setdefault(worker, len(self._numbers) + 1)

    async def put(self, message: Message) -> None:
        """Add a report."""
        self._messages.append(message)
        self._came.set()

    async def take(self, seconds: float) -> list[Message]:
        """Return the reports that nobody has taken; waits so long for the first one."""
        if not self._messages and seconds > 0:
            try:
                await asyncio.wait_for(self._came.wait(), seconds)
            except TimeoutError:
                return []
        found, self._messages = self._messages, []
        self._came.clear()
        return found
