"""The console that everything is printed to."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from attar.core.printable import printable


class SafeConsole(Console):
    """A console that writes out what a terminal would obey, whatever is printed; its own styles are left alone."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders, with the text of every segment printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
