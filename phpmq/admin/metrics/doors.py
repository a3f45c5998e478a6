"""Families of the operators' doors: HTTP and the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phpmq.admin.console import ConsoleFactory
from phpmq.admin.console.protocol import DEADLINES
from phpmq.admin.http import Site
from phpmq.admin.http.channel import CUTS, IDLE_TIMEOUT, LINGER_TIMEOUT
from phpmq.admin.http.problems import CODES
from phpmq.admin.metrics.families import counters, gauges
from phpmq.admin.turns import Server

_GAUGES: tuple[tuple[str, Callable[[Site], float], str], ...] = (
    ("phpmq_http_connections", lambda site: len(site.channels), "Connections of HTTP."),
    ("phpmq_http_connections_limit", lambda site: site.max_connections, "Connections of HTTP that there may be."),
    ("phpmq_http_body_bytes", lambda site: site.held, "Bytes of the bodies of requests that are not complete."),
    ("phpmq_http_body_limit_bytes", lambda site: site.max_held, "Bytes that they may take."),
    ("phpmq_http_event_readers", lambda site: len(site.events.readers), "Clients that read events."),
    ("phpmq_http_event_readers_limit", lambda site: site.events.most, "Clients that may."),
)


def doors(server: Server) -> Iterator[Metric]:
    """What a server has. Without HTTP its families have no series."""
    yield from _consoles(server.consoles)
    yield from _http(server.site)


def _consoles(consoles: ConsoleFactory) -> Iterator[Metric]:
    none = dict.fromkeys
    yield GaugeMetricFamily("phpmq_consoles", "Consoles that are connected.", len(consoles.open))
    yield GaugeMetricFamily("phpmq_consoles_limit", "Consoles that there may be.", consoles.most)
    yield CounterMetricFamily("phpmq_consoles_rejected", "Consoles turned away, as there were too many.", consoles.rejected)
    yield counters("phpmq_console_timeouts", "kind", none(DEADLINES, 0) | consoles.timeouts, "Consoles closed, as they missed a deadline.")
    yield gauges("phpmq_console_deadline_seconds", "kind", DEADLINES, "Time that such a deadline gives.")


def _http(site: Site | None) -> Iterator[Metric]:
    for name, number, text in _GAUGES:
        yield GaugeMetricFamily(name, text, None if site is None else number(site))
    rejected = None if site is None else site.rejected
    yield CounterMetricFamily("phpmq_http_connections_rejected", "Connections of HTTP turned away, as there were too many.", rejected)
    none = dict.fromkeys
    problems = {} if site is None else none(CODES, 0) | site.problems
    yield counters("phpmq_http_problems", "code", problems, "Requests answered with a problem.")
    cut_off = {} if site is None else none(CUTS, 0) | site.cut_off
    yield counters("phpmq_http_cut_off", "kind", cut_off, "Connections of HTTP cut off, as they missed a deadline or sent too much.")
    deadlines = (
        {}
        if site is None
        else {
            "idle": IDLE_TIMEOUT,
            "request": site.request_timeout,
            "write": site.write_timeout,
            "close": LINGER_TIMEOUT,
        }
    )
    yield gauges("phpmq_http_deadline_seconds", "kind", deadlines, "Time that a deadline of a connection gives.")
