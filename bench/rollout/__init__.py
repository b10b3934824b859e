"""Rollouts beside a lock-step loop and beside the bare engine."""
