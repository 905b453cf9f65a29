"""Inputs that were once a fault: target, file and content."""

CORPUS: list[tuple[str, str, bytes]] = []
