"""What stands between sockets and endpoints: limits, keys, timeouts, and the page's files."""
