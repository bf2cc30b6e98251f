"""Sites: layers with a pattern as methods see them, one class for each storage."""
