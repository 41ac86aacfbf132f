"""Slot, a place for an answer that comes later, and drive(), which runs a coroutine that waits for such answers.

Owns waiting. Knows nothing of the answers. A Slot has one waiter and no chain of callbacks. So it costs a quarter of a
Deferred where speed matters. A coroutine may await both.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.model.errors import Error

T = TypeVar("T")
log = Logger()


class Slot(Generic[T]):
    """A place for one answer or one exception, and for the one caller that waits for it."""

    __slots__ = ("_done", "_error", "_ready", "_value")

    def __init__(self) -> None:
        self._done: Callable[[Any, BaseException | None], None] | None = None
        self._ready = False
        self._value: Any = None
        self._error: BaseException | None = None

    def resolve(self, value: T) -> None:
        """Put the answer in."""
        done, self._done = self._done, None
        if done is not None:
            done(value, None)
        else:
            self._ready, self._value, self._error = True, value, None

    def fail(self, error: BaseException) -> None:
        """Put an exception in: no answer will come. Each slot needs its own: a shared one gathers every traceback."""
        done, self._done = self._done, None
        if done is not None:
            done(None, error)
        else:
            self._ready, self._value, self._error = True, None, error

    def then(self, done: Callable[[Any, BaseException | None], None]) -> None:
        """Call done(value, error) when the answer is here, or at once."""
        if self._ready:
            value, error = self._value, self._error
            self._value = self._error = None  # a coroutine that fails with the error would hold it, and be held by it
            done(value, error)
        else:
            self._done = done

    def __await__(self) -> Generator[Slot[T], Any, T]:
        answer: T = yield self
        return answer


class _Drive(Generic[T]):
    """A coroutine that has begun. The Slot that it waits for holds this object, which never holds itself.

    So a request is freed when its last reference goes, and the garbage collector finds nothing.
    """

    __slots__ = ("_coroutine", "_failed", "_finished")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        finished: Callable[[T], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._coroutine, self._finished, self._failed = coroutine, finished, failed

    def step(self, value: Any = None, error: BaseException | None = None) -> None:
        """Go on with the result that was waited for, up to the next wait or to the end."""
        try:
            waits = self._coroutine.throw(error) if error is not None else self._coroutine.send(value)
        except StopIteration as stop:
            self._finished(stop.value)
            return
        except Exception as problem:
            self._failed(problem)
            return
        finally:
            if error is not None:
                error.__traceback__ = None  # it holds the frames that brought the error, and they hold it
        if waits.__class__ is Slot:
            waits.then(self.step)
        else:
            waits.addCallbacks(self.step, self._failure)

    def _failure(self, failure: Failure) -> None:
        self.step(None, failure.value)


def drive(
    coroutine: Coroutine[Any, Any, T],
    finished: Callable[[T], object],
    failed: Callable[[BaseException], object],
) -> None:
    """Run a coroutine that awaits Slots or Deferreds. Calls one of the two functions, once."""
    _Drive(coroutine, finished, failed).step()


def nothing(_: object) -> None:
    """Do nothing, because all went well."""


def fault(what: str, error: BaseException) -> bool:
    """Whether this error is a fault of RestMQ, which is logged here. That Redis is away is logged elsewhere."""
    if isinstance(error, Error):
        return False
    log.error("{what} failed: {error!r}", what=what, error=error)
    return True


def ignored(answer: object, error: BaseException | None) -> None:
    """Ignore an answer that nobody waits for. Without one nothing is lost."""


def begun(coroutine: Coroutine[Any, Any, T]) -> Slot[T]:
    """Run a coroutine now, as far as it goes, and answer a slot for its result."""
    slot: Slot[T] = Slot()
    drive(coroutine, slot.resolve, slot.fail)
    return slot


def pause(clock: IReactorTime, seconds: float) -> Slot[None]:
    """A slot that is resolved after so many seconds."""
    slot: Slot[None] = Slot()
    clock.callLater(seconds, slot.resolve, None)
    return slot


def deferred(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine now and answer a Deferred for its result, for Twisted's services."""
    answer: Deferred[T] = Deferred()
    drive(coroutine, answer.callback, answer.errback)
    return answer
