"""One client's conversation: commands in, deliveries and receipts out."""

from phpmq.session.session import Session

__all__ = ["Session"]
