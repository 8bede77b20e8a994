"""The thin library that every function imports; this file imports nothing, so that each pays only for its own."""
