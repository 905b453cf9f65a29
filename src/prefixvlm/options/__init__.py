"""The components that a configuration may build, and the options that they accept."""
