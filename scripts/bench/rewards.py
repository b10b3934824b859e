"""Runs `bench.rewards`."""

from bench.rewards import main

if __name__ == "__main__":
    main()
