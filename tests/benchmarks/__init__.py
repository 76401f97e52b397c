"""Programs that measure; nothing here is a test, and make test collects none of it."""
