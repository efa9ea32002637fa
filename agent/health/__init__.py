"""The companion: whether certificates are healthy, and what is done where they are not."""
