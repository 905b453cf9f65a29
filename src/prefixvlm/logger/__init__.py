"""Loggers that never ask for anything and that a resumed run goes on with; as in conf/logger."""
