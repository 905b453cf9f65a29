"""The `prefixvlm` command, which prepares its process before its subcommands are imported."""

from prefixvlm.distributed.signals import exiting_on_signals
from prefixvlm.distributed.threads import wait_without_spinning


def main() -> None:
    """Run the command line of this process."""
    wait_without_spinning()  # before torch is imported
    with exiting_on_signals():
        from prefixvlm.command_line.subcommands import run_command
    run_command()


if __name__ == "__main__":
    main()
