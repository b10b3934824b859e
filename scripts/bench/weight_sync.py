"""Runs `bench.policy.weight_sync`."""

from bench.policy.weight_sync import main

if __name__ == "__main__":
    main()
