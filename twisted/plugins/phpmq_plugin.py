"""Makes `twistd phpmq` and `twist phpmq` known."""

from twisted.application.service import ServiceMaker

phpmq = ServiceMaker("phpmq", "phpmq.tap", "The phpmq queue server.", "phpmq")
