"""Runs `bench.curriculum.comparison`."""

from bench.curriculum.comparison import main

if __name__ == "__main__":
    main()
