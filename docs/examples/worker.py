"""
A worker: a service that makes thumbnails, so to speak, of what is in the queue "images".

Run it with: twistd --nodaemon --pidfile= -y worker.tac
"""

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from phpmq.client import QueueClient


class Unusable(Exception):
    """Nobody can ever do anything with this message."""


class Worker(Service):
    """
    Does what is in the queue C{images}, four at a time, and sends the results to the queue C{thumbnails}.

    It starts and stops its client itself: Twisted would stop both at the same time, and what is begun could not be finished.
    """

    _log = Logger()

    def __init__(self, client: QueueClient, reactor):
        self._client = client
        self._reactor = reactor

    def startService(self):
        super().startService()
        self._client.startService()
        self._consumer = self._client.subscribe("images", self._work, window=4)

    def stopService(self):
        super().stopService()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self):
        """Take no more, finish what was begun, and hang up."""
        await self._consumer.stop()
        await self._client.stopService()

    async def _work(self, delivery):
        try:
            thumbnail = await self._shrink(delivery.body)
        except Unusable as error:
            # It would fail again: set it aside, with a word to the operator.
            delivery.dead_letter(str(error))
            return
        # First the result, and only when it is on the disk the acknowledgement: in between a crash costs nothing but work done twice.
        await self._client.send("thumbnails", thumbnail, level="synced", key=f"thumbnail of {delivery.id}")
        delivery.ack()
        # Any other exception is logged, and the message comes again: after a second, then after two, four, and so on.

    async def _shrink(self, image: bytes) -> bytes:
        if not image:
            raise Unusable("the image is empty")
        await deferLater(self._reactor, 0.01)  # Work that waits for something else lets others work.
        return image[:10]
