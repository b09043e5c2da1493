"""What may come in and what may go out: executor, policy, door, ledger, doctor."""
