"""Runs `bench.policy.parity`."""

from bench.policy.parity import main

if __name__ == "__main__":
    main()
