"""twistd --nodaemon --pidfile= -y worker.tac: the worker as an application, connected to $PHPMQ_SERVER."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from twisted.application.service import Application  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from worker import Worker  # noqa: E402

from phpmq.client import QueueClient  # noqa: E402

application = Application("worker")
client = QueueClient(os.environ.get("PHPMQ_SERVER", "tcp:127.0.0.1:9100"), reactor)
Worker(client, reactor).setServiceParent(application)
