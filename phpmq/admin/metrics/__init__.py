"""Prometheus metrics of a server, and the resource of twisted.web that has them."""

from phpmq.admin.metrics.scrape import Format, Metrics, MetricsResource

__all__ = ["Format", "Metrics", "MetricsResource"]
