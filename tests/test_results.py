"""The definitions of status fields, of which JSON, schemas and tables are made."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, get_args

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from phpmq import results
from phpmq.message import DEFAULT_SETTINGS, QueueSettings
from phpmq.results import Page, Paused, QueueStatus, QueueTotals, Rate, Rates, Unit

_RATE = Rate(1.5, 0.5, 0.0)

QUEUE = QueueStatus(
    *("jobs", 3, 2, 1, 0, 70, 0, 1, None),
    Paused(deliveries=True, sends=False),
    QueueTotals(6, 1, 0),
    Rates(_RATE, _RATE, _RATE),
    DEFAULT_SETTINGS,
)


class ResultTests(SynchronousTestCase):
    """What is made of a result."""

    def test_json(self) -> None:
        """Each field has its name in JSON, and those that are not known are left out where they may be."""
        found = results.as_json(Page([QUEUE], None))
        self.assertEqual(found["next"], None)
        (queue,) = found["items"]
        self.assertEqual(list(queue)[:3], ["name", "ready", "delayed"])
        self.assertEqual(queue["paused"], {"deliveries": True, "sends": False})
        self.assertEqual(queue["rates"]["received"], {"1s": 1.5, "10s": 0.5, "60s": 0.0})
        self.assertEqual(queue["settings"], vars(DEFAULT_SETTINGS))
        self.assertIsNone(queue["oldest_message_age_seconds"])
        self.assertEqual(results.as_json(results.MemoryStatus(1, 2)), {"used": 1, "limit": 2})
        self.assertEqual(results.as_json(results.MirrorStatus(None)), {"file": None})

    def test_schemas(self) -> None:
        """A result fits its schema, and nothing else does; every schema is one, and describes its fields."""
        for kind in results.KINDS.values():
            Draft202012Validator.check_schema(results.schema_of(kind))
            self.assertTrue(all(map(is_dataclass, get_args(kind) or [kind])))
        schema = Draft202012Validator(results.schema_of(QueueStatus))
        queue = results.as_json(QUEUE)
        schema.validate(queue)
        settings = {**queue["settings"], "when_full": "cry"}
        wrong: dict[str, Any]
        for wrong in {"ready": -1}, {"ready": None}, {"paused": {}}, {"more": 1}, {"settings": settings}:
            self.assertFalse(schema.is_valid({**queue, **wrong}), wrong)
        self.assertFalse(schema.is_valid({name: value for name, value in queue.items() if name != "dead"}))
        self.assertEqual(schema.schema["properties"]["ready"]["description"], "Messages that can be delivered now.")

    def test_settings(self) -> None:
        """Every setting has a description."""
        self.assertEqual([name for name, doc in results.docs(QueueSettings).items() if doc], list(vars(DEFAULT_SETTINGS)))

    def test_tables(self) -> None:
        """Columns have their fields' titles, numbers on the right, and cells in the format of their units."""
        table = results.Table(QueueStatus, "ready", "bytes", "oldest_message_age_seconds", "rates.delivered", "name")
        self.assertEqual(table.headings, [">READY", ">SIZE", ">AGE", ">OUT", "QUEUE"])
        formats = {**results.FORMATS, Unit.RATE: lambda rate: f"{rate['1s']}/s"}
        self.assertEqual(table.row(results.as_json(QUEUE), formats), ["3", "70 B", "-", "1.5/s", "jobs"])
        self.assertEqual(results.FORMATS.keys(), {*Unit} - {Unit.MOMENT, Unit.BASE64})

    def test_words(self) -> None:
        """What is paused, and what a client consumes, in words."""
        self.assertEqual(results.paused({"paused": {"deliveries": True, "sends": True}}), "deliveries and sends")
        self.assertEqual(results.consumed([]), "-")
        self.assertEqual(results.consumed([{"queue": name} for name in "abcdef"], repr), "'a', 'b', 'c', 'd' and 2 more")
