"""Tests with a real twistd process on real sockets."""
