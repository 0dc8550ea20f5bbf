"""Pauses Python's search for reference cycles while modules are imported: it finds next to nothing and takes time.

A module's functions, classes and types stay until the program ends. While torch is imported, Python looks through
hundreds of thousands of them again and again, for a sixth of the whole time.
"""

import gc


def pause_collector() -> None:
    """Stops the search for reference cycles; a program calls it before its slow imports."""
    gc.disable()


def resume_collector() -> None:
    """Starts the search again, without the objects that exist by now; does nothing where it was not paused."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
