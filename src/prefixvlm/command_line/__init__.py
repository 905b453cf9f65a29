"""The command lines: subcommands of `prefixvlm`, and checks of train.py and eval.py before torch is imported."""
