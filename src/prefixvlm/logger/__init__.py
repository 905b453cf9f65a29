"""Loggers that never prompt and that a resumed run continues, as in conf/logger."""
