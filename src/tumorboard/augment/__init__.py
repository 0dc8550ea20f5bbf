"""Changes training images at random: altered images, copies that balance the classes, mixed pairs."""
