"""A session: a process that follows a run directed by another process, and runs the jobs that it is asked for.

It walks through the same program as every process, so it opens the same data and networks. At each call of ``work.do``
it waits for requests. When a request is for a job of a later call, it walks on to that one.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from attar.core import ranks, work
from attar.core.log import Advance

IDLE_SECONDS = 30.0
"""How long a session waits for its next job before it ends and frees the memory of its device."""


@dataclass(frozen=True)
class _Request:
    place: tuple[str, str]
    name: str
    advance: Advance
    answer: Future[bool] = field(default_factory=Future)


class _Idle(BaseException):
    """Ends a walk that nobody needs any more."""


class Session:
    """Runs jobs of a run one at a time. It is the launcher of its own walk, which runs in a thread."""

    def __init__(
        self, walk: Callable[[], object], *, together: bool = False, team: int = 1, idle: float = IDLE_SECONDS
    ) -> None:
        """``walk`` runs the whole program. With ``together``, ``team`` processes do every job together.

        The process must follow (``ranks.follow``). ``idle`` is in seconds.
        """
        self.together: bool | None = together
        self.running = False
        """Whether a job runs at the moment."""
        self._walk, self._team, self._idle = walk, team, idle
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock, self._ended = threading.Lock(), False
        self._pending: _Request | None = None
        """The request that the walk is on its way to."""
        self._thread = threading.Thread(target=self._follow, name="attar-session", daemon=True)
        self._thread.start()

    def run(self, place: tuple[str, str], name: str, advance: Advance) -> bool:
        """Run the job ``name`` of the call at ``place``, unless its result exists.

        Returns False if the session has ended or the walk is past the job: begin another session. Errors of the job
        and of the walk are raised here, and end the session.
        """
        request = _Request(place, name, advance)
        with self._lock:
            if self._ended:
                return False
            self._requests.put(request)
        return request.answer.result()

    def close(self) -> None:
        """End the session when its job is done, and free the memory of its device."""
        self._requests.put(None)
        self._thread.join()

    def team_size(self) -> int:
        """Return how many processes train one network together."""
        return self._team

    def do(self, call: work.Call) -> None:
        """Run the jobs of this call that are asked for; return when a job of another call is."""
        jobs = {job.name: job for job in call.jobs}
        while True:
            request = self._pending or self._next()
            self._pending = request
            job = jobs.get(request.name) if call.place == request.place else None
            if job is None:
                return
            self.running = True
            try:
                if self.together:
                    with ranks.working_together():
                        self._run(call, job, request.advance)
                else:
                    self._run(call, job, request.advance)
            finally:
                self.running = False
            self._pending = None
            request.answer.set_result(True)

    def _run(self, call: work.Call, job: work.Job, advance: Advance) -> None:
        if ranks.of_first(job.done()):
            advance(job.steps)
            return
        call.log.release()
        call.run_one(job, advance)

    def _next(self) -> _Request:
        try:
            request = self._requests.get(timeout=self._idle)
        except queue.Empty:
            request = None
        if request is None:
            raise _Idle
        return request

    def _follow(self) -> None:
        error: BaseException | None = None
        try:
            with work.launched_by(self):
                self._pending = self._next()
                self._walk()
        except _Idle:
            pass
        except BaseException as found:
            error = found
        with self._lock:
            self._ended = True
        waiting = [self._pending]
        while not self._requests.empty():
            waiting.append(self._requests.get())
        for request in filter(None, waiting):
            if error is None:
                request.answer.set_result(False)
            else:
                request.answer.set_exception(error)
