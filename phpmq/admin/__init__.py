"""Status and actions over a running server. HTTP, console and metrics are doors to it, so that a number is the same wherever it is read."""

from phpmq.admin.admin import Admin, Health
from phpmq.admin.pages import Page

__all__ = ["Admin", "Health", "Page"]
