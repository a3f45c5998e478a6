"""
Verbs that inspect and control a running server over its HTTP API: coroutine functions that C{api_verb} makes the callbacks of commands.

L{phpmq.cli.admin.run} runs them, L{phpmq.cli.admin.api} makes requests, and L{phpmq.cli.admin.format} makes text and tables of results.
"""
