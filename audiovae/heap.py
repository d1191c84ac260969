"""What the C library does with memory that training gives back, for as long as the process lives."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MOST, BLOCK = (1 << 31) - 1, 1 << 30  # bytes: free at the heap's end before any of it is returned; not from the heap


def keep_freed() -> bool:
    """Keep what is freed for the next step, which wants as much again; whether the C library could be told so.

    glibc returns the free end of its heap to the system, and gets it back page by page, each cleared first: in training
    on pictures thousands of times a step. Elsewhere nothing is done.

    >>> keep_freed() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none to be had by name
        return False
    return all([mallopt(MMAP_THRESHOLD, BLOCK), mallopt(TRIM_THRESHOLD, MOST)])
