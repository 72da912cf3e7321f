"""Runs that start by themselves: by a time table, after a failure, after an outage, by an event.

What is due stands in rows (`bootpoint_common.store.due`); `decision` says what to do with one, without a database;
`round` takes the rows that nobody else has and carries the decisions out. Any process may do it, none leads.
"""
