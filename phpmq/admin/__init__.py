"""Status and actions over a running server, for the operators' interfaces: the HTTP API, the console and the metrics."""

from phpmq.admin.admin import Admin

__all__ = ["Admin"]
