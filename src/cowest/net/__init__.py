"""HTTP and the addresses that may be called."""
