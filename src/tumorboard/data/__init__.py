"""From a folder of images to the Manifest and the CropStore: sources, crop, store, split, balance."""
