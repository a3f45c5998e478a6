"""
The C{phpmq} command.

A verb is a module or a package of its own that holds a click command; L{phpmq.cli.command} lists them. Options and texts are there,
and nothing that is slow to import: the work is in modules that a verb imports when it is called. What verbs share has one home each:

    options     values on the command line, and options that many verbs have
    exits       exit codes, and the line that says why
    output      what is shown: tables, JSON, numbers, and nothing that a terminal would obey
    progress    how far it is
    running     a coroutine on the reactor, and signals
    pipes       stdin and stdout, without blocking the reactor
    lines       messages as lines of JSON
    files       files that are written whole or not at all
    connection  the client that sends and consumes
    admin       the verbs that speak to the HTTP API, and what those share
"""

from phpmq.cli.command import main

__all__ = ["main"]
