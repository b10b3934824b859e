"""Retrieval policies on simulated learners whose gain from retrieval is known."""
