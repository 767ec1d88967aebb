"""Outbox: sends the store and other processes, soon, what nobody needs to wait for."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from streaming_api.cluster.connection import Command, StoreError
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.store import Store

_MOST: Final = 10_000


class Outbox:
    """Questions and hints sent by this process.

    Args:
        instance: the name of this process.
    """

    def __init__(self, store: Store, instance: str, figures: Figures) -> None:
        self.instance = instance
        self._store = store
        self._figures = figures
        self._waiting = 0
        self._insisted: dict[Command, None] = {}  # not known to have been done

    async def ask(self, *commands: Command) -> list[Any]:
        """Ask the store in a task of our own: a client that leaves cancels only its own wait.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        task = asyncio.create_task(self._store.ask(*commands), name="cluster question")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except StoreError as error:
            self._figures.failed(str(error))
            raise

    def notify(self, instance: str, kind: str, **fields: str | bytes) -> None:
        """Send a message to another process."""
        self.send(self._store.message(instance, kind, by=self.instance, **fields))

    def send(self, command: Command) -> None:
        """Run a command before whatever is asked next; a hint that finds no room is lost."""
        if self._waiting < _MOST:
            self._waiting += 1
            self._store.soon(command).add_done_callback(partial(self._sent, command))

    def _sent(self, command: Command, done: asyncio.Future[list[Any]]) -> None:
        self._waiting -= 1
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            self._figures.failed(str(error))
        elif not isinstance(done.result()[0], Exception):
            self._insisted.pop(command, None)

    def insist(self, command: Command) -> None:
        """Run a command soon, and again until the store has confirmed it: it may be repeated."""
        if len(self._insisted) < _MOST:
            self._insisted[command] = None
            self.send(command)

    def repeat(self) -> None:
        """Run again what was insisted on and has not been confirmed; called once a second."""
        for command in tuple(self._insisted):
            self.send(command)
