"""Chunks of time that are scanned at once, though each but the first needs the state that the one before it ends with.

Mostly a few steps before a chunk are enough to know that state: what came before them is forgotten. So these steps are
scanned first, from any state: the warm-up, which predicts the carry. Afterwards each prediction is compared with what
the chunk before came to, and a chunk that started from another state is scanned again. Hence results are those of one
scan, whatever gates do.
"""


def scan(count, predict, scan_all, is_right, scan_again):
    """Scan so many chunks; return whether that was done: not where `predict` returned that carries are not predicted.

    ``is_right(k)`` compares the k-th prediction with what the chunk before came to; ``scan_again(k)`` starts from that.
    """
    if not predict():
        return False
    scan_all()
    for k in range(1, count):
        if not is_right(k):
            scan_again(k)
    return True
