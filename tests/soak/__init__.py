"""Hours of misfortune in minutes: real commands that are killed, starved and lied to (`make soak`)."""
