"""Runs `bench.policy.families`."""

from bench.policy.families import main

if __name__ == "__main__":
    main()
