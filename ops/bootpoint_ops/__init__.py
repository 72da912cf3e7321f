"""What operators use: the command line, the scheduler, the one-machine mode and the demo."""
