"""
The API over HTTP: JSON, raw message bodies, problem documents, server-sent events and an OpenAPI document.

A connection is a L{phpmq.admin.http.connection.HTTPConnection}, what it asks for a L{phpmq.admin.http.connection.Request}; what there is to
ask for is the table in L{phpmq.admin.http.operations}, and each entry calls L{phpmq.admin.admin.Admin}.
"""

from phpmq.admin.http.site import Site

__all__ = ["Site"]
