"""The `prefixvlm` command, with signals handled before its subcommands are imported."""

from prefixvlm.distributed.signals import exiting_on_signals


def main() -> None:
    """Run the command line of this process."""
    with exiting_on_signals():
        from prefixvlm.command_line.subcommands import run_command
    run_command()


if __name__ == "__main__":
    main()
