/* What translated PTX runs in: see ptx_emulator.py, which puts REGISTERS, LOCAL_BYTES, SHARED_BYTES and kernel() in.
 *
 * Each CUDA thread is a coroutine: kernel() runs until the thread needs others, leaves its program counter and says what
 * it waits for. run() lets all threads of a block go in turn, in random order if there is a seed, and lets those go on
 * that have met. Of blocks, as many run at a time as it is told.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY = 0, AT_BARRIER = 1, IN_WARP = 2, DONE = 9 };
enum { UP, DOWN, BUTTERFLY, INDEX, BALLOT, ALL, ANY };

struct Thread;
typedef struct {
    uint32_t block[3], at[3], grid[3];
    char *shared;
    uint32_t shared_size, number, epoch, live, *order, *written, *read_by;
    struct Thread *threads;
} Block;
typedef struct { uint64_t low, high; uint32_t *writers; } Range; /* writers: a word for two bytes */
typedef struct Thread {
    uint64_t x[REGISTERS];
    char local[LOCAL_BYTES] __attribute__((aligned(16)));
    uint32_t pc, number, place[3], mask, value, b, c, result, other;
    int state, operation;
} Thread;

static Range *ranges, *last;
static int range_count, check_races;
static uint32_t *written, *read_by, epoch, block_number; /* of the block that runs */
static uint64_t loaded, stored, accesses, executed;
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

/* What blocks publish: where, what stood there at launch, what is to stand there, and whether it already does. */
typedef struct { uint64_t address, before, value; int seen; } Word;
#define WORDS (1 << 17)
static Word words[WORDS], *unseen[WORDS];
static uint32_t word_count, unseen_count;
static int disorder;

static Word *find_word(uint64_t address) {
    uint32_t k = (address >> 3) * 2654435761u % WORDS;
    while (words[k].address && words[k].address != address) k = (k + 1) % WORDS;
    return words + k;
}

static int touch_word(uint64_t address, int size, int writes, Thread *thread) {
    int races = check_races;
    check_races = 0;
    int failed = touch_global(address, size, writes, thread);
    check_races = races;
    if (failed) return -1;
    if (address % size) FAIL("misaligned word at %#lx by thread %u", (long)address, thread->number);
    if (!check_races) return 0;
    uint32_t *writers = last->writers + (address - last->low) / 2;
    for (int k = 0; k < size / 2; k++) {
        if (writers[k] && writers[k] != ~0u) FAIL("a word at %#lx was written as plain memory", (long)address);
        writers[k] = ~0u;
    }
    return 0;
}

static void show(uint32_t k) {
    memcpy((char *)unseen[k]->address, &unseen[k]->value, 8);
    unseen[k]->seen = 1;
    unseen[k] = unseen[--unseen_count];
}

static int publish(uint64_t address, uint64_t value, Thread *thread) {
    if (touch_word(address, 8, 1, thread)) return -1;
    Word *word = find_word(address);
    if (word->address) {
        if (word->value != value) FAIL("two contents of a word at %#lx by block %u", (long)address, block_number);
        return 0;
    }
    if (word_count++ > WORDS / 2) FAIL("too many words");
    word->address = address; word->value = value;
    memcpy(&word->before, (char *)address, 8);
    unseen[unseen_count++] = word;
    if (!disorder) show(unseen_count - 1);
    return 0;
}

static int peek(uint64_t address, uint64_t *value, Thread *thread) {
    if (touch_word(address, 8, 0, thread)) return -1;
    memcpy(value, (char *)address, 8);
    if (disorder && rand() % 4 == 0) {
        Word *word = find_word(address);
        if (word->address) *value = word->before;
    }
    return 0;
}

static int add(uint64_t address, uint32_t more, uint64_t *before, Thread *thread) {
    if (touch_word(address, 4, 1, thread)) return -1;
    uint32_t value;
    memcpy(&value, (char *)address, 4);
    *before = value;
    value += more;
    memcpy((char *)address, &value, 4);
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

/* Lets a block's threads go as far as they come. */
static int advance(Block *block, uint32_t count, char *parameters, int shuffled) {
    uint32_t *order = block->order;
    Thread *threads = block->threads;
    int progress = 0;
    block_number = block->number; epoch = block->epoch; written = block->written; read_by = block->read_by;
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
        if (state == DONE) block->live--;
        progress = 1;
    }
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < count; i++) waiting += threads[i].state == AT_BARRIER;
    if (waiting && waiting == block->live) {
        for (uint32_t i = 0; i < count; i++) if (threads[i].state == AT_BARRIER) threads[i].state = READY;
        block->epoch++;
        return 0;
    }
    for (uint32_t first = 0; first < count; first += 32) {
        int met = meet(threads + first, count - first < 32 ? count - first : 32);
        if (met < 0) return met;
        progress |= met;
    }
    if (!progress && block->live)
        FAIL("deadlock in block %u: %u threads live, %u at a barrier", block_number, block->live, waiting);
    return 0;
}

static void begin(Block *block, uint32_t number, uint32_t count) {
    uint32_t *grid = block->grid;
    block->number = number;
    block->at[0] = number % grid[0]; block->at[1] = number / grid[0] % grid[1]; block->at[2] = number / grid[0] / grid[1];
    block->epoch = 1;
    block->live = count;
    memset(block->shared, 0xff, block->shared_size);
    memset(block->written, 0, 4 * block->shared_size);
    memset(block->read_by, 0, 4 * block->shared_size);
    for (uint32_t i = 0; i < count; i++) {
        Thread *thread = block->threads + i;
        memset(thread, 0xcd, sizeof *thread);
        thread->pc = 0; thread->state = READY; thread->number = block->order[i] = i;
        thread->place[0] = i % block->block[0];
        thread->place[1] = i / block->block[0] % block->block[1];
        thread->place[2] = i / block->block[0] / block->block[1];
    }
}

int run(uint32_t *grid, uint32_t *block, uint32_t dynamic, char *parameters, Range *all, int how_many, uint32_t seed,
        int races, uint32_t resident, uint64_t *bytes, char *message) {
    uint32_t count = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2], running = 0, next = 0;
    uint64_t rounds = 0;
    int failed = 0;
    ranges = all; range_count = how_many; last = 0; check_races = races; error[0] = 0;
    loaded = stored = accesses = executed = 0;
    if (word_count) memset(words, 0, sizeof words);
    word_count = unseen_count = 0;
    disorder = seed != 0;
    srand(seed);
    if (resident > blocks) resident = blocks;
    Block *here = calloc(resident, sizeof *here), spare;
    for (uint32_t k = 0; k < resident; k++) {
        memcpy(here[k].block, block, 12);
        memcpy(here[k].grid, grid, 12);
        here[k].shared_size = SHARED_BYTES + dynamic;
        here[k].shared = aligned_alloc(256, (here[k].shared_size + 511) & ~255u);
        here[k].written = malloc(4 * here[k].shared_size + 4);
        here[k].read_by = malloc(4 * here[k].shared_size + 4);
        here[k].threads = malloc(sizeof(Thread) * count);
        here[k].order = malloc(4 * count);
    }
    for (int k = 0; k < how_many && races; k++) all[k].writers = calloc((all[k].high - all[k].low) / 2 + 2, 4);
    uint32_t *numbers = malloc(4 * blocks);
    for (uint32_t k = 0; k < blocks; k++) numbers[k] = k;
    for (uint32_t k = blocks - 1; resident > 1 && seed && k > 0; k--) {
        uint32_t j = rand() % (k + 1), number = numbers[k];
        numbers[k] = numbers[j];
        numbers[j] = number;
    }
    while (!failed && (running || next < blocks)) {
        if (running < resident && next < blocks) begin(here + running++, numbers[next++], count);
        uint32_t k = running > 1 ? rand() % running : 0;
        failed = advance(here + k, count, parameters, seed != 0);
        while (unseen_count && rand() % 4) show(rand() % unseen_count);
        if (!failed && !here[k].live) {
            spare = here[k]; here[k] = here[--running]; here[running] = spare;
            rounds = 0;
        } else if (!failed && resident > 1 && ++rounds > 10000000) {
            snprintf(error, sizeof error, "block %u and others wait for ever", here[k].number);
            failed = -1;
        }
    }
    while (unseen_count) show(0);
    for (int k = 0; k < how_many && races; k++) free(all[k].writers);
    bytes[0] = loaded; bytes[1] = stored; bytes[2] = accesses; bytes[3] = executed;
    strcpy(message, error);
    for (uint32_t k = 0; k < resident; k++) {
        free(here[k].threads); free(here[k].order); free(here[k].shared); free(here[k].written); free(here[k].read_by);
    }
    free(here);
    free(numbers);
    return failed;
}
