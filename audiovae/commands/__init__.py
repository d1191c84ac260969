"""One module a command: its arguments as a dataclass, an example, and what it does."""
