"""How the threads of a process wait for each other."""

import os


def wait_without_spinning() -> None:
    """Let OpenMP's idle threads sleep, in this process and those that it starts. Call it before torch is imported.

    A value of OMP_WAIT_POLICY that the user has set stays as it is.
    """
    # By default libgomp's threads spin until the next product begins. Where other work shares the cores, they spin
    # while the thread that they wait for is not running. libgomp reads the variable once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
