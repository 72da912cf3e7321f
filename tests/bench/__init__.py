"""Measurements against nbdcopy and rsync: ``python -m tests.bench``, or ``make bench``."""
