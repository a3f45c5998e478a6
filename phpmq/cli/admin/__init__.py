"""
Verbs that see and steer a running server, over its HTTP API.

A module has a verb, or a few that belong together: the click command, and the coroutine that does the work with an
L{phpmq.cli.admin.api.Api} and the standard output. What they share:

    options   where the API is, and options that several verbs have
    address   how the user names an API
    reaching  the work, run with an API: from a click command to an exit code
    api       requests and pages
    refusals  what goes wrong between here and there, in one sentence
    several   the same for each of several queues
    question  whether the user is sure
    names     names of queues, for a shell that completes them
    words     numbers and facts as text
    letters   messages, and their times

Nothing but C{api} imports treq, which takes its time, and only C{reaching} imports that.
"""
