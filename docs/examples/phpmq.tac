"""
A Twisted application with a queue server inside: its own code consumes and sends without a socket.

Run it with: twistd --nodaemon --pidfile= -y phpmq.tac

It answers each message in the queue "words" with one in the queue "shouts".
"""

from collections import deque

from twisted.application.service import Application, Service
from twisted.internet import reactor
from zope.interface import implementer

from phpmq.interfaces import IPeer
from phpmq.service import QueueService, Settings


@implementer(IPeer)
class Shouter(Service):
    """A consumer and sender in the server's own process."""

    def __init__(self, server):
        self.server = server
        self.words = deque()
        self.full = False

    def startService(self):
        """The server was added to the application first, so it has started and has a broker now."""
        super().startService()
        self.channel = self.server.broker.channel(self)
        self.channel.consume("words", 100)

    def stopService(self):
        """What was delivered and not settled goes back to its place."""
        self.channel.close()
        return super().stopService()

    def receipt(self, tag, id=b"", duplicate=False):
        """Nothing here has a tag."""

    def superseded(self):
        """This is no producer."""

    def shout(self):
        while self.words:
            self.channel.publish("shouts", self.words[0].body.upper(), 0)
            if self.full:
                return
            self.channel.ack(None, self.words.popleft().id)

    def deliver(self, message, now):
        """A message came. It may be settled here or at any later time."""
        self.words.append(message)
        self.shout()

    def refused(self, tag, error):
        """Nothing here has a tag."""

    def blocked(self):
        """Called from within publish: the memory or the queue is full, and the message was not taken."""
        self.full = True

    def unblocked(self):
        """It may be taken now."""
        self.full = False
        self.shout()

    def flush(self):
        """No more deliveries for now."""


application = Application("shouter")
server = QueueService(Settings(listen=["unix:shouter.sock"], store="shouter.db"), reactor)
server.setServiceParent(application)
Shouter(server).setServiceParent(application)
