"""Disks that are full or fail for a while, by means of strace."""

from __future__ import annotations

import shutil
import subprocess
import time
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.checker import QUEUES, Checker, Load, read_server, read_store
from tests.functional.server import Server, wait_until
from tests.functional.version02 import RECEIPT, Client02, send_frame


def strace(fault: str) -> tuple[str, ...]:
    """
    The command that runs a server whose system calls fail for a while.

    @raise SkipTest: strace is not there, or may not trace
    """
    call = fault.partition(":")[0]
    command = "strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"
    if shutil.which("strace") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        raise SkipTest("strace cannot be used")
    return command


class DiskTests(SynchronousTestCase):
    """The file cannot be written for a while: the server goes on, says so once, and catches up."""

    timeout = 60

    def survive(self, fault: str) -> None:
        """Run a server through a fault, under load; nothing is lost in the end."""
        command = strace(fault)
        server = Server(self)
        server.stop()
        # Faults are counted by thread: the start, with its few calls, is spared, the mirror's thread is not.
        server = Server(self, "--mirror-interval", "0.02", cwd=server.directory, wrapper=command)
        # The queue without a consumer shows what the file lost, the other one goes on.
        load = Load(server, 0, QUEUES[:1])
        server.wait_for("cannot be written")
        server.wait_for("is written again")
        time.sleep(0.2)
        self.assertEqual(server.stop(), 0)
        load.wait()
        # An alarm a minute, and the all-clear after it.
        self.assertLessEqual(server.output.count("cannot be written"), server.output.count("is written again"))
        self.assertNotIn("Traceback", server.output)
        stored = read_store(server.store, server.directory / "copy")
        checker = Checker({queue: [] for queue in QUEUES}, load, stored)
        checker.check_clean_stop()
        checker.check_recovered(read_server(Server(self, cwd=server.directory), stored))
        self.assertEqual(checker.faults, [])
        self.assertGreater(sum(map(len, stored.values())), 50)

    def test_receipts(self) -> None:
        """Receipts are withheld while the file cannot be written, and given when it can; new synced sends are refused meanwhile."""
        command = strace("fdatasync:error=EIO:when=12..40")
        server = Server(self)
        server.stop()
        server = Server(self, "--mirror-interval", "0.05", cwd=server.directory, wrapper=command)
        queue, number, receipted = QUEUES[0], 0, 0
        with Client02(server.tcp) as first, Client02(server.tcp) as second:
            while receipted == number:
                number += 1
                first.write(send_frame(queue, b"%d" % number, number))
                while first.silent(0.01) and "cannot be written" not in server.output:
                    pass
                if not first.silent(0.01):
                    receipted = first.answer().number
            second.write(send_frame(queue, b"refused", 1))
            self.assertEqual(second.answer().packets[13], b"disk-failing")
            second.write(send_frame(queue, b"stored", 2, b"stored"))
            self.assertEqual(second.answer().number, 2)
            self.assertTrue(first.silent(0.01))
            self.assertNotIn("is written again", server.output)
            server.wait_for("is written again")
            answer = first.answer()
            self.assertEqual((answer.type, answer.number), (RECEIPT, number))
        server.stop(9)
        stored = read_store(server.store, server.directory / "copy")[queue]
        self.assertEqual(stored, [*[b"%d" % each for each in range(1, number + 1)], b"stored"])

    def test_full_for_good(self) -> None:
        """While the disk stays full clients go on; SIGTERM ends the server within 10 s, with exit code 1 and what it could not save."""
        command = strace("pwrite64:error=ENOSPC:when=60+")
        server = Server(self)
        server.stop()
        server = Server(self, cwd=server.directory, wrapper=command)
        load = Load(server, 0)
        server.wait_for("cannot be written")
        count = sum(map(len, load.delivered.values()))
        wait_until("a thousand more deliveries", lambda: sum(map(len, load.delivered.values())) > count + 1000)
        start = time.monotonic()
        self.assertEqual(server.stop(), 1)
        self.assertLess(time.monotonic() - start, 10)
        load.wait()
        self.assertIn("changes that could not be written", server.output)
        self.assertNotIn("Traceback", server.output)
        Server(self, cwd=server.directory)

    def test_full(self) -> None:
        """No space left, for dozens of writes."""
        self.survive("pwrite64:error=ENOSPC:when=60..100")

    def test_sync_fails(self) -> None:
        """fdatasync fails a few times in a row: what was in those commits is in later ones."""
        self.survive("fdatasync:error=EIO:when=12..20")

    def test_sync_fails_once(self) -> None:
        """fdatasync fails once, and would say that all is well when asked again."""
        self.survive("fdatasync:error=EIO:when=15")
