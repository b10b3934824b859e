"""Runs `bench.retrieval.serving`."""

from bench.retrieval.serving import main

if __name__ == "__main__":
    main()
