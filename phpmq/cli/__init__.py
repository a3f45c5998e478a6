"""
The C{phpmq} command.

A verb is a click command in a module that L{phpmq.cli.command} names. Such a module has options and texts at its top, and imports what is
slow to import (Twisted, rich) inside the functions that need it. What verbs share has one home each:

    verbs         the verbs that speak the queue protocol; send, consume and bench do their work
    admin         the verbs that speak to the HTTP API, and what those share
    options       types of values on the command line, and options that several verbs have
    exit_codes    exit codes, and the error that ends a command with one line
    output        tables, JSON, notes on standard error, and a progress line
    reactor_main  runs a coroutine on the reactor until it ends or signals end it
    stdio         standard input and output without blocking the reactor
    ndjson        messages as lines of JSON
    connection    the client that sends and consumes
    prefetch      deliveries from several queues within windows
"""

from phpmq.cli.command import main

__all__ = ["main"]
