"""What runs inside the Linux guest (see `tests.service.linux_guest`): nothing here needs pytest."""
