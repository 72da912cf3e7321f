"""The truth: what exists, what is committed, who holds a claim. Plain SQL on PostgreSQL, no ORM.

One module for each noun; each function takes the connection of the caller's transaction. Order of locks, in every
transaction that touches them: boot_point, then replica, then the rest; two transactions never wait in a ring.
"""
