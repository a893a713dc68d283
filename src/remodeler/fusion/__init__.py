"""Fuse: many teachers, with any tokenizer, into one student."""
