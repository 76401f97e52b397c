"""Tests of the toolkit; a package, so that spawned ranks can import a test's functions."""
