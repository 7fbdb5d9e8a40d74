/* What translated PTX runs in: see ptx_emulator.py, which puts REGISTERS, LOCAL_BYTES, SHARED_BYTES and kernel() in.
 *
 * Each CUDA thread is a coroutine: kernel() runs until the thread needs others, leaves its program counter and says what
 * it waits for. run() lets all threads of a block go in turn, in random order if there is a seed, and lets those go on
 * that have met.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY = 0, AT_BARRIER = 1, IN_WARP = 2, DONE = 9 };
enum { UP, DOWN, BUTTERFLY, INDEX, BALLOT, ALL, ANY, MEET };

typedef struct { uint32_t block[3], at[3], grid[3]; char *shared; uint32_t shared_size; } Block;
typedef struct { uint64_t low, high; uint32_t *writers; } Range; /* writers: a word for two bytes */
typedef struct {
    uint64_t x[REGISTERS];
    char local[LOCAL_BYTES] __attribute__((aligned(16)));
    uint32_t pc, number, place[3], mask, value, b, c, result, other;
    int state, operation;
} Thread;

static Range *ranges, *last;
static int range_count, check_races;
static uint32_t *written, *read_by, epoch, block_number;
static uint64_t loaded, stored, accesses;
static char error[512];

#define FAIL(...) do { if (!error[0]) snprintf(error, sizeof error, __VA_ARGS__); return -1; } while (0)

static Range *find(uint64_t address, int size) {
    if (last && address >= last->low && address + size <= last->high) return last;
    int low = 0, high = range_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (ranges[middle].low <= address) low = middle + 1; else high = middle;
    }
    if (low && address + size <= ranges[low - 1].high) return last = ranges + low - 1;
    return 0;
}

static int touch_global(uint64_t address, int size, int writes, Thread *thread) {
    Range *range = find(address, size);
    if (!range) FAIL("global access of %d bytes out of bounds at %#lx by thread %u of block %u", size, (long)address,
                     thread->number, block_number);
    if (writes) stored += size; else loaded += size;
    accesses++;
    if (check_races) {
        uint32_t me = block_number * 1024 + thread->number + 1;
        for (uint64_t k = (address - range->low) / 2; k <= (address + size - 1 - range->low) / 2; k++) {
            if (range->writers[k] && range->writers[k] != me)
                FAIL("global race at %#lx: thread %u of block %u after a write by %u of block %u", (long)address,
                     thread->number, block_number, (range->writers[k] - 1) % 1024, (range->writers[k] - 1) / 1024);
            if (writes) range->writers[k] = me;
        }
    }
    return 0;
}

static int touch_shared(uint64_t address, int size, int writes, Thread *thread, Block *block) {
    uint64_t offset = address - (uint64_t)block->shared;
    if (address < (uint64_t)block->shared || offset + size > block->shared_size)
        FAIL("shared access out of bounds: offset %ld by thread %u", (long)offset, thread->number);
    if (check_races) {
        uint32_t me = thread->number + 1;
        for (int k = 0; k < size; k++) {
            uint32_t w = written[offset + k], r = read_by[offset + k];
            if (w >> 12 == epoch && (w & 4095) != me)
                FAIL("shared race: offset %ld by thread %u after a write by %u with no barrier", (long)offset,
                     thread->number, (w & 4095) - 1);
            if (writes && r >> 12 == epoch && (r & 4095) != me)
                FAIL("shared race: offset %ld written by thread %u after %u read it with no barrier", (long)offset,
                     thread->number, (r & 4095) - 1);
            if (writes) written[offset + k] = epoch << 12 | me;
            else if (r >> 12 != epoch) read_by[offset + k] = epoch << 12 | me;
        }
    }
    return 0;
}

static float as_float(uint64_t x) { uint32_t u = x; float f; memcpy(&f, &u, 4); return f; }
static double as_double(uint64_t x) { double f; memcpy(&f, &x, 8); return f; }
static uint64_t float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static uint64_t double_bits(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
static float half_to_float(uint16_t h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
static uint16_t float_to_half(float f) { _Float16 x = (_Float16)f; uint16_t h; memcpy(&h, &x, 2); return h; }
static uint16_t float_to_bfloat(float f) {
    uint32_t u = float_bits(f);
    return f != f ? 0x7fff : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

/* TRANSLATED */

/* Lets the threads of a warp that have met exchange what they brought; returns whether any did, -1 for an error. */
static int meet(Thread *warp, uint32_t count) {
    int progress = 0;
    for (uint32_t lane = 0; lane < count; lane++) {
        if (warp[lane].state != IN_WARP) continue;
        uint32_t mask = warp[lane].mask, active = 0, votes = 0;
        int complete = 1;
        if (!(mask >> lane & 1)) FAIL("lane %u is not in its own mask", lane);
        for (uint32_t k = 0; k < count; k++) {
            if (!(mask >> k & 1) || warp[k].state == DONE) continue;
            if (warp[k].state != IN_WARP || warp[k].mask != mask) { complete = 0; continue; }
            active |= 1u << k;
            if (warp[k].value) votes |= 1u << k;
        }
        if (!complete) continue;
        for (uint32_t k = 0; k < count; k++)
            if (active >> k & 1 && (warp[k].operation != warp[lane].operation || warp[k].pc != warp[lane].pc))
                FAIL("lanes %u and %u of a warp meet at different places", lane, k);
        for (uint32_t k = 0; k < count; k++) {
            if (!(active >> k & 1)) continue;
            Thread *t = warp + k;
            int segment = t->c >> 8 & 31, clamp = t->c & 31, b = t->b & 31;
            int most = (k & segment) | (clamp & ~segment), least = k & segment, from = k, inside = 1;
            switch (t->operation) {
            case UP: from = (int)k - b; inside = from >= most; break;
            case DOWN: from = k + b; inside = from <= most; break;
            case BUTTERFLY: from = k ^ b; inside = from <= most; break;
            case INDEX: from = least | (b & ~segment); inside = from <= most; break;
            }
            if (t->operation <= INDEX) {
                if (!inside) from = k;
                if (!(active >> from & 1)) FAIL("a shuffle: lane %u reads lane %d, which takes no part", k, from);
                t->result = warp[from].value;
                t->other = inside;
            } else {
                t->result = t->operation == BALLOT ? votes : t->operation == ALL ? votes == active : votes != 0;
            }
        }
        for (uint32_t k = 0; k < count; k++) if (active >> k & 1) warp[k].state = READY;
        progress = 1;
    }
    return progress;
}

static int run_block(Thread *threads, uint32_t *order, uint32_t count, Block *block, char *parameters, int shuffled) {
    uint32_t live = count;
    while (live) {
        int progress = 0;
        for (uint32_t i = count - 1; shuffled && i > 0; i--) {
            uint32_t j = rand() % (i + 1), k = order[i];
            order[i] = order[j];
            order[j] = k;
        }
        for (uint32_t i = 0; i < count; i++) {
            Thread *thread = threads + order[i];
            if (thread->state != READY) continue;
            int state = kernel(thread, block, parameters);
            if (state < 0) return state;
            thread->state = state;
            if (state == DONE) live--;
            progress = 1;
        }
        uint32_t waiting = 0;
        for (uint32_t i = 0; i < count; i++) waiting += threads[i].state == AT_BARRIER;
        if (waiting && waiting == live) {
            for (uint32_t i = 0; i < count; i++) if (threads[i].state == AT_BARRIER) threads[i].state = READY;
            epoch++;
            continue;
        }
        for (uint32_t first = 0; first < count; first += 32) {
            int met = meet(threads + first, count - first < 32 ? count - first : 32);
            if (met < 0) return met;
            progress |= met;
        }
        if (!progress && live) FAIL("deadlock in block %u: %u threads live, %u at a barrier", block_number, live, waiting);
    }
    return 0;
}

int run(uint32_t *grid, uint32_t *block, uint32_t dynamic, char *parameters, Range *all, int how_many, uint32_t seed,
        int races, uint64_t *bytes, char *message) {
    uint32_t count = block[0] * block[1] * block[2];
    Block here;
    int failed = 0;
    ranges = all; range_count = how_many; last = 0; check_races = races; error[0] = 0; loaded = stored = accesses = 0;
    srand(seed);
    memcpy(here.block, block, 12);
    memcpy(here.grid, grid, 12);
    here.shared_size = SHARED_BYTES + dynamic;
    here.shared = aligned_alloc(256, (here.shared_size + 511) & ~255u);
    written = malloc(4 * here.shared_size + 4);
    read_by = malloc(4 * here.shared_size + 4);
    for (int k = 0; k < how_many && races; k++) all[k].writers = calloc((all[k].high - all[k].low) / 2 + 2, 4);
    Thread *threads = malloc(sizeof(Thread) * count);
    uint32_t *order = malloc(4 * count);
    for (uint32_t z = 0; z < grid[2] && !failed; z++)
        for (uint32_t y = 0; y < grid[1] && !failed; y++)
            for (uint32_t x = 0; x < grid[0] && !failed; x++) {
                here.at[0] = x; here.at[1] = y; here.at[2] = z;
                block_number = x + grid[0] * (y + grid[1] * z);
                epoch = 1;
                memset(here.shared, 0xff, here.shared_size);
                memset(written, 0, 4 * here.shared_size);
                memset(read_by, 0, 4 * here.shared_size);
                for (uint32_t i = 0; i < count; i++) {
                    Thread *thread = threads + i;
                    memset(thread, 0xcd, sizeof *thread);
                    thread->pc = 0; thread->state = READY; thread->number = order[i] = i;
                    thread->place[0] = i % block[0];
                    thread->place[1] = i / block[0] % block[1];
                    thread->place[2] = i / block[0] / block[1];
                }
                failed = run_block(threads, order, count, &here, parameters, seed != 0);
            }
    for (int k = 0; k < how_many && races; k++) free(all[k].writers);
    bytes[0] = loaded; bytes[1] = stored; bytes[2] = accesses;
    strcpy(message, error);
    free(threads); free(order); free(here.shared); free(written); free(read_by);
    return failed;
}
