"""Turns a folder of images into a CropStore and a split Manifest: lists, crops, packs, audits and splits."""
