"""What the teacher said: store, filters with a ledger, selection."""
