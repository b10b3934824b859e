"""Runs `bench.retrieval.recall`."""

from bench.retrieval.recall import main

if __name__ == "__main__":
    main()
