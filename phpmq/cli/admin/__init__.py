"""
Verbs that inspect and control a running server, over its HTTP API.

A module has verbs that belong together: click commands, and for each a coroutine that does the work with the API and a
L{phpmq.cli.output.Report}. What they share:

    run       the work of a verb, from a click command to an exit code; for each of several queues; after a question
    api       requests, pages, and the errors for answers
    transport the connections of an API, and the errors between
    format    results as text and tables
"""
