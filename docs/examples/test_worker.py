"""The worker's tests: a whole server in the test's process, no sockets, and no second is really waited for."""

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase
from worker import Worker

from phpmq.testing import MemoryServer


class WorkerTests(SynchronousTestCase):
    def setUp(self):
        self.server = MemoryServer()
        self.addCleanup(self.server.stop)
        self.worker = Worker(self.server.client(), self.server.clock)
        self.worker.startService()

    def test_work(self):
        """An image becomes a thumbnail, and is gone."""
        self.server.send("images", b"a large image")
        self.server.advance(0.1)
        self.assertEqual(self.server.bodies("thumbnails"), [b"a large im"])
        self.assertEqual(self.server.left("images"), 0)

    def test_unusable(self):
        """What can never work is set aside."""
        self.server.send("images", b"")
        self.server.advance(0.1)
        (dead,) = self.server.dead("images")
        self.assertEqual(dead.text, "the image is empty")

    def test_trouble(self):
        """What fails for now is done later."""
        shrink, calls = self.worker._shrink, []

        async def fail_twice(image):
            calls.append(self.server.clock.seconds())
            if len(calls) < 3:
                raise OSError("disk full")
            return await shrink(image)

        self.patch(self.worker, "_shrink", fail_twice)
        self.server.send("images", b"image")
        self.server.advance(10)
        self.assertEqual(self.server.bodies("thumbnails"), [b"image"])
        self.assertEqual([round(later - first) for first, later in pairwise(calls)], [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_server_gone(self):
        """While the server is away nothing is lost, and the worker goes on when it is back."""
        self.server.reachable = False
        self.server.disconnect()
        self.server.send("images", b"image")
        self.server.advance(60)
        self.assertEqual(self.server.left("images"), 1)
        self.server.reachable = True
        self.server.advance(20)
        self.assertEqual(self.server.bodies("thumbnails"), [b"image"])
