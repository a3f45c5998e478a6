"""Verbs that inspect and control a running server over its HTTP API: each is a coroutine function that L{run.api_verb} makes a callback."""
