"""Tile descriptors of the single-pass scan: where tiles tell each other what they know, in the call's own memory.

It begins as zeros and holds the next ticket, a dirty flag for each series, and for each tile of a series some status
words: the state before the tile, the numbers of its summary and, for averages, their origin. A status word is a number
and the mark that it is there, written and read as one: so a reader that sees the mark sees the number, in whatever
order memory makes other writes visible. No fence is needed, and no second look.
"""

from . import device as gpu

HEAD = 16  # bytes of the ticket
MOST_LOOKS = 1 << 20  # at a status word that never comes, of about a microsecond each
STATE, FACTOR, RISE, ORIGIN = range(4)


def bytes_of(series, tiles, across, is_average, size):
    """Return how many bytes there are, for ``across`` series side by side in a tile and carries of ``size`` bytes."""
    padded, words = -(-series // across) * across, 4 if is_average else 3
    return HEAD + 2 * size * padded * (1 + words * tiles)


@gpu.helper
def is_dirty(descriptors, series, size, zero):
    """Return whether a series must be scanned once more."""
    is_set, _ = gpu.load_status(descriptors, HEAD + 2 * size * series, zero)
    return is_set


@gpu.helper
def mark_dirty(descriptors, series, size, zero):
    """Have the fix-up pass scan a series once more."""
    gpu.store_status(descriptors, HEAD + 2 * size * series, zero)


@gpu.helper
def pause(looks):
    """Wait a little; stop the kernel after about a second. Return how often that was."""
    gpu.nap()
    if looks > MOST_LOOKS:
        gpu.trap()
    return looks + 1


@gpu.helper
def locate(geometry, series, tile, across, size):
    """Return where a tile's first status word stands, and how far it is to each next.

    Neighbouring threads look at neighbouring words: of series where these stand side by side, else of tiles.
    """
    padded = gpu.divide(geometry.lanes + (across - 1), across) * across
    at = tile * padded + series if across > 1 else series * geometry.tiles + tile
    word = 2 * size
    return HEAD + word * (padded + at), word * padded * geometry.tiles
