"""Runs `bench.seeds`."""

from bench.seeds import main

if __name__ == "__main__":
    main()
