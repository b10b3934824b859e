"""Runs `bench.policy.update`."""

from bench.policy.update import main

if __name__ == "__main__":
    main()
