"""Decodes image files and crops them to squares: bytes → picture → crop."""
