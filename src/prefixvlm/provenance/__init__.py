"""Where a result comes from: commit, versions and command line, without secrets."""
