"""
The API over HTTP: JSON, problem documents, server-sent events and an OpenAPI document.

A connection is a L{phpmq.admin.http.channel.Channel}, what it asks for a L{phpmq.admin.http.request.Request}; what there is to ask for
is the table in L{phpmq.admin.http.routes}, and each entry calls L{phpmq.admin.Admin}.
"""

from phpmq.admin.http.access import Access
from phpmq.admin.http.site import Site

__all__ = ["Access", "Site"]
