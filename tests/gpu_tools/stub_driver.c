/* A libcuda.so.1 without a card: contexts, streams, events, memory and modules, as strict as a driver's about them.

   What a program may rely on is what the driver's manual says: each thread has a stack of contexts, which may be empty;
   a stream or an event belongs to a context; a launch needs a current one, within the limits of grid, block and shared
   memory; while a stream is captured, nothing may allocate or synchronise. Device memory is the host's. Work is done
   when it is put into a stream; kernels are run by a callback that Python sets, or by nobody. What is called is noted in
   a log, which Python reads. See stub_driver.py. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500,
    NOT_READY = 600, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906
};

typedef struct Context { int device, retained, active; } Context;
typedef struct Stream { uint64_t magic; Context *context; int flags, capture, number; } Stream;
typedef struct Event { uint64_t magic; Context *context; int recorded; double seconds; } Event;
typedef struct Library { uint64_t magic; char *image; size_t size; } Library;
typedef struct Kernel { uint64_t magic; Library *library; char *name; } Kernel;
typedef struct Memory { struct Memory *next; char *start; size_t size; int device, ordered; } Memory;
typedef struct { unsigned grid[3], block[3], shared; Stream *stream; void *attributes; unsigned count; } Launch;
typedef int (*Runner)(const char *, size_t, const char *, const unsigned *, const unsigned *, void **, int, void *);

#define STREAM 0x5354524541u
#define EVENT 0x4556454e54u
#define LIBRARY 0x4c494252u
#define KERNEL 0x4b45524eu
#define MOST_DEVICES 8

static int devices = 1, version = 13000, capabilities[MOST_DEVICES], pools = 1, is_initialised, sticky, captures;
static Context contexts[MOST_DEVICES];
static Stream defaults[MOST_DEVICES][2];
static Memory *memory;
static int streams_made;
static Runner runner;
static __thread Context *stack[64];
static __thread int depth;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- The log ---------------------------------------------------------------------------------------------------- */

static char *journal;
static size_t journal_size, journal_room;

static void note(const char *format, ...)
{
    char line[600];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (size > (int)sizeof line - 2) size = sizeof line - 2;
    line[size++] = '\n';
    pthread_mutex_lock(&lock);
    if (journal_size + size + 1 > journal_room) {
        journal_room = 2 * journal_room + 4096;
        journal = realloc(journal, journal_room);
    }
    memcpy(journal + journal_size, line, size);
    journal_size += size;
    journal[journal_size] = 0;
    pthread_mutex_unlock(&lock);
}

EXPORT const char *stub_log(void) { return journal ? journal : ""; }
EXPORT void stub_clear_log(void) { journal_size = 0; if (journal) journal[0] = 0; }
EXPORT void stub_set_runner(Runner run) { runner = run; }
EXPORT int stub_depth(void) { return depth; }
EXPORT int stub_device(int at) { return at < depth ? stack[depth - 1 - at]->device : -1; }

/* Write (start, size) of a device's memory; return how many there are. */
EXPORT int stub_memory(int device, uint64_t *out, int most)
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (Memory *m = memory; m; m = m->next)
        if (m->device == device) {
            if (n < most) { out[2 * n] = (uint64_t)m->start; out[2 * n + 1] = m->size; }
            n++;
        }
    pthread_mutex_unlock(&lock);
    return n;
}

/* ---- Checks ----------------------------------------------------------------------------------------------------- */

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

#define READY() do { if (!is_initialised) return NOT_INITIALIZED; if (sticky) return sticky; } while (0)
#define NEEDS_CONTEXT() do { READY(); if (!current()) return INVALID_CONTEXT; } while (0)
/* What a driver refuses while any stream of the process is captured. */
#define NOT_IN_CAPTURE(name) do { if (captures) { note("refused %s", name); invalidate(); return CAPTURE_UNSUPPORTED; } \
    } while (0)

static Stream *made[4096];

static void invalidate(void)
{
    for (int k = 0; k < streams_made; k++)
        if (made[k] && made[k]->capture) made[k]->capture = 2;
}

/* The stream behind a handle: 0 and 1 are a context's default, 2 a thread's; NULL is none. */
static Stream *stream_of(Stream *handle)
{
    uint64_t value = (uint64_t)handle;
    if (value <= 2) return current() ? &defaults[current()->device][value == 2] : NULL;
    return handle->magic == STREAM ? handle : NULL;
}

static int enter(Stream *handle, Stream **found)
{
    NEEDS_CONTEXT();
    Stream *stream = stream_of(handle);
    if (!stream || stream->context != current()) return INVALID_HANDLE;
    if (stream->capture == 2) return CAPTURE_INVALIDATED;
    if ((uint64_t)handle <= 1 && captures) { invalidate(); return CAPTURE_IMPLICIT; }
    *found = stream;
    return SUCCESS;
}

/* ---- Devices and contexts --------------------------------------------------------------------------------------- */

static int setting(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    if (!is_initialised) {
        devices = setting("STUB_DEVICES", 1);
        version = setting("STUB_VERSION", 13000);
        pools = setting("STUB_POOLS", 1);
        const char *list = getenv("STUB_CAPABILITIES");
        for (int k = 0; k < MOST_DEVICES; k++) {
            capabilities[k] = list && *list ? (int)strtol(list, (char **)&list, 10) : k ? capabilities[k - 1] : 90;
            if (list && *list == ',') list++;
            contexts[k].device = k;
            for (int j = 0; j < 2; j++) defaults[k][j] = (Stream){STREAM, &contexts[k], 0, 0, 0};
        }
        is_initialised = 1;
    }
    pthread_mutex_unlock(&lock);
    return devices ? SUCCESS : NO_DEVICE;
}

int cuDriverGetVersion(int *out) { *out = setting("STUB_VERSION", 13000); return SUCCESS; }
int cuDeviceGetCount(int *out) { READY(); *out = devices; return SUCCESS; }

int cuDeviceGet(int *out, int ordinal)
{
    READY();
    if (ordinal < 0 || ordinal >= devices) return INVALID_DEVICE;
    *out = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "stub card %d", device); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t *out, int device) { (void)device; *out = (size_t)8 << 30; return SUCCESS; }

int cuDeviceGetUuid_v2(char *uuid, int device)
{
    memset(uuid, 0, 16);
    uuid[15] = device + 1;
    return SUCCESS;
}

int cuDeviceGetAttribute(int *out, int attribute, int device)
{
    static const int values[][2] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {9, 65536},
        {10, 32}, {12, 65536}, {13, 1980000}, {16, 132}, {19, 1}, {31, 1}, {39, 2048}, {41, 1}, {81, 233472},
        {82, 65536}, {83, 1}, {97, 232448},
    };
    READY();
    if (device < 0 || device >= devices) return INVALID_DEVICE;
    *out = 0;
    for (int k = 0; k < COUNT(values); k++)
        if (values[k][0] == attribute) *out = values[k][1];
    if (attribute == 34) *out = device;
    if (attribute == 75) *out = capabilities[device] / 10;
    if (attribute == 76) *out = capabilities[device] % 10;
    if (attribute == 115) *out = pools;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(Context **out, int device)
{
    READY();
    if (device < 0 || device >= devices) return INVALID_DEVICE;
    contexts[device].retained++;
    contexts[device].active = 1;
    *out = &contexts[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) { contexts[device].retained--; return SUCCESS; }
int cuDevicePrimaryCtxReset_v2(int device) { contexts[device].active = 0; return SUCCESS; }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    *flags = 0;
    *active = contexts[device].active;
    return SUCCESS;
}

int cuCtxGetCurrent(Context **out) { if (!is_initialised) return NOT_INITIALIZED; *out = current(); return SUCCESS; }

int cuCtxSetCurrent(Context *context)
{
    READY();
    if (!context) { if (depth) depth--; return SUCCESS; }
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(Context *context)
{
    READY();
    if (!context || depth == 64) return INVALID_CONTEXT;
    stack[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(Context **out)
{
    READY();
    if (!depth) return INVALID_CONTEXT;
    depth--;
    if (out) *out = stack[depth];
    return SUCCESS;
}

int cuCtxGetDevice(int *out) { NEEDS_CONTEXT(); *out = current()->device; return SUCCESS; }
int cuCtxGetId(Context *context, uint64_t *out) { *out = 1 + (context ? context : current())->device; return SUCCESS; }
int cuCtxGetFlags(unsigned *out) { NEEDS_CONTEXT(); *out = 0; return SUCCESS; }
int cuCtxGetStreamPriorityRange(int *low, int *high) { NEEDS_CONTEXT(); *low = *high = 0; return SUCCESS; }

int cuCtxSynchronize(void)
{
    NEEDS_CONTEXT();
    NOT_IN_CAPTURE("cuCtxSynchronize");
    note("synchronise context %d", current()->device);
    return SUCCESS;
}

/* ---- Streams, events, capture ----------------------------------------------------------------------------------- */

int cuStreamCreate(Stream **out, unsigned flags)
{
    NEEDS_CONTEXT();
    Stream *stream = calloc(1, sizeof *stream);
    *stream = (Stream){STREAM, current(), (int)flags, 0, 0};
    pthread_mutex_lock(&lock);
    made[streams_made] = stream;
    stream->number = ++streams_made;
    pthread_mutex_unlock(&lock);
    *out = stream;
    return SUCCESS;
}

int cuStreamCreateWithPriority(Stream **out, unsigned flags, int priority)
{
    (void)priority;
    return cuStreamCreate(out, flags);
}

int cuStreamDestroy_v2(Stream *stream) { stream->magic = 0; made[stream->number - 1] = NULL; return SUCCESS; }
int cuStreamGetFlags(Stream *stream, unsigned *out) { *out = stream_of(stream)->flags; return SUCCESS; }
int cuStreamGetPriority(Stream *stream, int *out) { (void)stream; *out = 0; return SUCCESS; }

int cuStreamGetCtx(Stream *handle, Context **out)
{
    READY();
    Stream *stream = stream_of(handle);
    if (!stream) return INVALID_CONTEXT;
    *out = stream->context;
    return SUCCESS;
}

int cuStreamSynchronize(Stream *handle)
{
    Stream *stream;
    NOT_IN_CAPTURE("cuStreamSynchronize");
    int error = enter(handle, &stream);
    if (!error) note("synchronise stream %d", stream->number);
    return error;
}

int cuStreamQuery(Stream *handle)
{
    Stream *stream;
    NOT_IN_CAPTURE("cuStreamQuery");
    return enter(handle, &stream);
}

int cuStreamWaitEvent(Stream *handle, Event *event, unsigned flags)
{
    (void)flags;
    Stream *stream;
    int error = enter(handle, &stream);
    if (error) return error;
    if (event->magic != EVENT) return INVALID_HANDLE;
    note("wait %d %llu", stream->context->device, (unsigned long long)handle);
    return SUCCESS;
}

int cuStreamBeginCapture_v2(Stream *handle, int mode)
{
    (void)mode;
    Stream *stream;
    if ((uint64_t)handle <= 2) return CAPTURE_UNSUPPORTED;
    int error = enter(handle, &stream);
    if (error) return error;
    stream->capture = 1;
    captures++;
    return SUCCESS;
}

int cuStreamEndCapture(Stream *stream, void **graph)
{
    int error = stream->capture == 2 ? CAPTURE_INVALIDATED : stream->capture ? SUCCESS : INVALID_VALUE;
    if (stream->capture) captures--;
    stream->capture = 0;
    *graph = NULL;
    return error;
}

int cuStreamIsCapturing(Stream *handle, int *out)
{
    READY();
    Stream *stream = stream_of(handle);
    if (!stream) return INVALID_CONTEXT;
    if ((uint64_t)handle <= 1 && captures) return CAPTURE_IMPLICIT;
    *out = stream->capture;
    return SUCCESS;
}

int cuEventCreate(Event **out, unsigned flags)
{
    (void)flags;
    NEEDS_CONTEXT();
    *out = calloc(1, sizeof **out);
    **out = (Event){EVENT, current(), 0, 0};
    return SUCCESS;
}

int cuEventDestroy_v2(Event *event) { event->magic = 0; return SUCCESS; }

int cuEventRecord(Event *event, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (error) return error;
    if (event->magic != EVENT || event->context != stream->context) return INVALID_HANDLE;
    event->recorded = 1;
    event->seconds = now();
    note("record %d %llu", stream->context->device, (unsigned long long)handle);
    return SUCCESS;
}

int cuEventRecordWithFlags(Event *event, Stream *stream, unsigned flags)
{
    (void)flags;
    return cuEventRecord(event, stream);
}

int cuEventQuery(Event *event) { NOT_IN_CAPTURE("cuEventQuery"); return event->recorded ? SUCCESS : NOT_READY; }
int cuEventSynchronize(Event *event) { (void)event; NOT_IN_CAPTURE("cuEventSynchronize"); return SUCCESS; }

int cuEventElapsedTime_v2(float *out, Event *first, Event *second)
{
    *out = 1e3 * (second->seconds - first->seconds);
    return SUCCESS;
}

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

static Memory *memory_at(uint64_t address)
{
    for (Memory *m = memory; m; m = m->next)
        if ((uint64_t)m->start <= address && address < (uint64_t)m->start + (m->size ? m->size : 1)) return m;
    return NULL;
}

static int allocate(uint64_t *out, size_t size, int ordered)
{
    Memory *m = calloc(1, sizeof *m);
    if (posix_memalign((void **)&m->start, 512, size ? size : 1)) return OUT_OF_MEMORY;
    memset(m->start, 0xff, size);
    m->size = size;
    m->device = current()->device;
    m->ordered = ordered;
    pthread_mutex_lock(&lock);
    m->next = memory;
    memory = m;
    pthread_mutex_unlock(&lock);
    *out = (uint64_t)m->start;
    return SUCCESS;
}

static int release(uint64_t address)
{
    pthread_mutex_lock(&lock);
    for (Memory **at = &memory; *at; at = &(*at)->next)
        if ((uint64_t)(*at)->start == address) {
            Memory *m = *at;
            *at = m->next;
            pthread_mutex_unlock(&lock);
            memset(m->start, 0xff, m->size);
            free(m->start);
            free(m);
            return SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *out, size_t size)
{
    NEEDS_CONTEXT();
    NOT_IN_CAPTURE("cuMemAlloc");
    if (!size) return INVALID_VALUE;
    note("allocate %d %zu", current()->device, size);
    return allocate(out, size, 0);
}

int cuMemFree_v2(uint64_t address)
{
    READY();
    NOT_IN_CAPTURE("cuMemFree");
    return address ? release(address) : SUCCESS;
}

int cuMemAllocAsync(uint64_t *out, size_t size, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (error) return error;
    if (!pools) return NOT_SUPPORTED;
    if (!size) return INVALID_VALUE;
    note("allocate in stream %d %llu %zu", stream->context->device, (unsigned long long)handle, size);
    return allocate(out, size, 1);
}

int cuMemFreeAsync(uint64_t address, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (error) return error;
    note("free in stream %d %llu", stream->context->device, (unsigned long long)handle);
    return release(address);
}

int cuMemGetInfo_v2(size_t *available, size_t *total)
{
    NEEDS_CONTEXT();
    *available = (size_t)6 << 30;
    *total = (size_t)8 << 30;
    return SUCCESS;
}

int cuMemGetAddressRange_v2(uint64_t *start, size_t *size, uint64_t address)
{
    Memory *m = memory_at(address);
    if (!m) return INVALID_VALUE;
    if (start) *start = (uint64_t)m->start;
    if (size) *size = m->size;
    return SUCCESS;
}

int cuPointerGetAttribute(void *out, int attribute, uint64_t address)
{
    READY();
    Memory *m = memory_at(address);
    if (!m) return INVALID_VALUE;
    switch (attribute) {
        case 1: *(Context **)out = &contexts[m->device]; break;
        case 2: *(unsigned *)out = 2; break;
        case 9: *(int *)out = m->device; break;
        case 3: case 11: *(uint64_t *)out = (uint64_t)m->start; break;
        case 12: *(size_t *)out = m->size; break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

int cuMemHostAlloc(void **out, size_t size, unsigned flags) { (void)flags; *out = calloc(1, size); return SUCCESS; }
int cuMemFreeHost(void *memory) { free(memory); return SUCCESS; }

static int copy(void *target, const void *source, size_t size, const char *what)
{
    NEEDS_CONTEXT();
    NOT_IN_CAPTURE(what);
    memcpy(target, source, size);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size)
{
    return copy((void *)target, source, size, "cuMemcpyHtoD");
}

int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size)
{
    return copy(target, (void *)source, size, "cuMemcpyDtoH");
}

int cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size)
{
    return copy((void *)target, (void *)source, size, "cuMemcpyDtoD");
}

static int copy_in(void *target, const void *source, size_t size, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (!error && !stream->capture) memcpy(target, source, size);
    return error;
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, Stream *stream)
{
    return copy_in((void *)target, source, size, stream);
}

int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, Stream *stream)
{
    return copy_in(target, (void *)source, size, stream);
}

int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, Stream *stream)
{
    return copy_in((void *)target, (void *)source, size, stream);
}

int cuMemsetD8_v2(uint64_t target, unsigned char value, size_t count)
{
    NEEDS_CONTEXT();
    memset((void *)target, value, count);
    return SUCCESS;
}

int cuMemsetD8Async(uint64_t target, unsigned char value, size_t count, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (!error && !stream->capture) memset((void *)target, value, count);
    return error;
}

int cuMemsetD32Async(uint64_t target, unsigned value, size_t count, Stream *handle)
{
    Stream *stream;
    int error = enter(handle, &stream);
    if (error) return error;
    if (target % 4 || !memory_at(target) || !memory_at(target + 4 * count - 1)) return INVALID_VALUE;
    note("fill %d %llu %zu", stream->context->device, (unsigned long long)handle, count);
    if (!stream->capture)
        for (size_t k = 0; k < count; k++) ((unsigned *)target)[k] = value;
    return SUCCESS;
}

/* ---- Kernels ---------------------------------------------------------------------------------------------------- */

int cuLibraryLoadData(Library **out, const void *code, void *o1, void *v1, unsigned n1, void *o2, void *v2, unsigned n2)
{
    (void)o1, (void)v1, (void)n1, (void)o2, (void)v2, (void)n2;
    READY();
    NOT_IN_CAPTURE("cuLibraryLoadData");
    const unsigned char *bytes = code;
    size_t size;
    if (!memcmp(bytes, "\177ELF", 4)) {
        uint64_t sections;
        uint16_t entry, count;
        memcpy(&sections, bytes + 40, 8);
        memcpy(&entry, bytes + 58, 2);
        memcpy(&count, bytes + 60, 2);
        size = sections + (size_t)entry * count;
        uint64_t programs;
        memcpy(&programs, bytes + 32, 8);
        memcpy(&entry, bytes + 54, 2);
        memcpy(&count, bytes + 56, 2);
        if (programs + (size_t)entry * count > size) size = programs + (size_t)entry * count;
    } else {
        size = strlen(code) + 1;
        if (!strstr(code, ".version")) return INVALID_IMAGE;
    }
    Library *library = calloc(1, sizeof *library);
    library->magic = LIBRARY;
    library->image = malloc(size);
    memcpy(library->image, code, size);
    library->size = size;
    note("load %zu", size);
    *out = library;
    return SUCCESS;
}

int cuLibraryUnload(Library *library) { library->magic = 0; return SUCCESS; }

int cuLibraryGetKernel(Kernel **out, Library *library, const char *name)
{
    READY();
    if (library->magic != LIBRARY) return INVALID_HANDLE;
    if (!memmem(library->image, library->size, name, strlen(name))) return NOT_FOUND;
    Kernel *kernel = calloc(1, sizeof *kernel);
    *kernel = (Kernel){KERNEL, library, strdup(name)};
    *out = kernel;
    return SUCCESS;
}

int cuKernelGetLibrary(Library **out, Kernel *kernel) { *out = kernel->library; return SUCCESS; }
int cuKernelGetFunction(void **out, Kernel *kernel) { *out = kernel; return SUCCESS; }

int cuKernelGetAttribute(int *out, int attribute, Kernel *kernel, int device)
{
    (void)kernel, (void)device;
    *out = attribute == 0 ? 1024 : 0;
    return SUCCESS;
}

/* A text's number after a word, added up over all of them or the last. */
static size_t number_after(const char *text, const char *word, int sum)
{
    size_t found = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word)) {
        size_t number = strtoul(at + strlen(word), NULL, 10);
        found = sum ? found + number : number;
    }
    return found;
}

static size_t static_shared(const char *text)
{
    size_t size = 0;
    for (const char *at = text; (at = strstr(at, ".shared .align")); at++) {
        const char *open = strchr(at, '['), *end = strchr(at, ';');
        if (open && end && open < end) size += strtoul(open + 1, NULL, 10);
    }
    return size;
}

/* Whether a device runs an image: PTX of its capability or an earlier one, machine code of its own. */
static int runs_on(Library *library, int device)
{
    int capability = capabilities[device];
    if (!memcmp(library->image, "\177ELF", 4)) {
        uint32_t flags;
        memcpy(&flags, library->image + 48, 4);
        return (int)(flags & 0xff) == capability || (int)(flags >> 8 & 0xff) == capability;
    }
    return (int)number_after(library->image, ".target sm_", 0) <= capability;
}

static int check(const Launch *launch, Kernel *kernel)
{
    const unsigned *grid = launch->grid, *block = launch->block;
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2], blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    if (!threads || !blocks || threads > 1024 || block[0] > 1024 || block[1] > 1024 || block[2] > 64) return 0;
    if (grid[0] > 2147483647u || grid[1] > 65535 || grid[2] > 65535) return 0;
    size_t shared = launch->shared;
    if (memcmp(kernel->library->image, "\177ELF", 4)) {
        size_t most = number_after(kernel->library->image, ".maxntid ", 0);
        if (most && threads > most) return 0;
        shared += static_shared(kernel->library->image);
    }
    return shared <= 49152;
}

int cuLaunchKernelEx(const Launch *launch, Kernel *kernel, void **parameters, void **extra)
{
    (void)extra;
    Stream *stream;
    int error = enter(launch->stream, &stream);
    if (error) return error;
    if (kernel->magic != KERNEL) return INVALID_HANDLE;
    if (!runs_on(kernel->library, stream->context->device)) return NO_BINARY;
    if (!check(launch, kernel)) return INVALID_VALUE;
    note("launch %d %llu %s", stream->context->device, (unsigned long long)launch->stream, kernel->name);
    if (!runner || stream->capture) return SUCCESS;
    error = runner(kernel->library->image, kernel->library->size, kernel->name, launch->grid, launch->block,
                   parameters, stream->context->device, launch->stream);
    if (error) sticky = error;
    return error;
}

/* ---- Names ------------------------------------------------------------------------------------------------------ */

int cuGetErrorName(int error, const char **out)
{
    static const struct { int error; const char *name; } names[] = {
        {SUCCESS, "CUDA_SUCCESS"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"}, {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {NOT_READY, "CUDA_ERROR_NOT_READY"},
        {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
        {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
        {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
    };
    for (int k = 0; k < COUNT(names); k++)
        if (names[k].error == error) { *out = names[k].name; return SUCCESS; }
    *out = "CUDA_ERROR_UNKNOWN";
    return SUCCESS;
}

int cuGetErrorString(int error, const char **out) { return cuGetErrorName(error, out); }

#define ENTRY(name) {#name, (void *)name}
#define SECOND(name) {#name, (void *)name##_v2}

static const struct { const char *name; void *function; } table[] = {
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet), ENTRY(cuDeviceGetName),
    SECOND(cuDeviceTotalMem), SECOND(cuDeviceGetUuid), ENTRY(cuDeviceGetAttribute), ENTRY(cuDevicePrimaryCtxRetain),
    SECOND(cuDevicePrimaryCtxRelease), SECOND(cuDevicePrimaryCtxReset), ENTRY(cuDevicePrimaryCtxGetState),
    ENTRY(cuCtxGetCurrent), ENTRY(cuCtxSetCurrent), SECOND(cuCtxPushCurrent), SECOND(cuCtxPopCurrent),
    ENTRY(cuCtxGetDevice), ENTRY(cuCtxGetId), ENTRY(cuCtxGetFlags), ENTRY(cuCtxGetStreamPriorityRange),
    ENTRY(cuCtxSynchronize), ENTRY(cuStreamCreate), ENTRY(cuStreamCreateWithPriority), SECOND(cuStreamDestroy),
    ENTRY(cuStreamGetFlags), ENTRY(cuStreamGetPriority), ENTRY(cuStreamGetCtx), ENTRY(cuStreamSynchronize),
    ENTRY(cuStreamQuery), ENTRY(cuStreamWaitEvent), SECOND(cuStreamBeginCapture), ENTRY(cuStreamEndCapture),
    ENTRY(cuStreamIsCapturing), ENTRY(cuEventCreate), SECOND(cuEventDestroy), ENTRY(cuEventRecord),
    ENTRY(cuEventRecordWithFlags), ENTRY(cuEventQuery), ENTRY(cuEventSynchronize), SECOND(cuEventElapsedTime),
    SECOND(cuMemAlloc), SECOND(cuMemFree), ENTRY(cuMemAllocAsync), ENTRY(cuMemFreeAsync), SECOND(cuMemGetInfo),
    SECOND(cuMemGetAddressRange), ENTRY(cuPointerGetAttribute), ENTRY(cuMemHostAlloc), ENTRY(cuMemFreeHost),
    SECOND(cuMemcpyHtoD), SECOND(cuMemcpyDtoH), SECOND(cuMemcpyDtoD), SECOND(cuMemcpyHtoDAsync),
    SECOND(cuMemcpyDtoHAsync), SECOND(cuMemcpyDtoDAsync), SECOND(cuMemsetD8), ENTRY(cuMemsetD8Async),
    ENTRY(cuMemsetD32Async), ENTRY(cuLibraryLoadData), ENTRY(cuLibraryUnload), ENTRY(cuLibraryGetKernel),
    ENTRY(cuKernelGetLibrary), ENTRY(cuKernelGetFunction), ENTRY(cuKernelGetAttribute), ENTRY(cuLaunchKernelEx),
    ENTRY(cuGetErrorName), ENTRY(cuGetErrorString),
};

EXPORT int cuGetProcAddress_v2(const char *name, void **out, int asked, uint64_t flags, int *status)
{
    (void)asked, (void)flags;
    *out = NULL;
    for (int k = 0; k < COUNT(table); k++)
        if (!strcmp(table[k].name, name)) *out = table[k].function;
    if (!strcmp(name, "cuGetProcAddress")) *out = (void *)cuGetProcAddress_v2;
    if (status) *status = *out ? 0 : 1;
    return *out ? SUCCESS : NOT_FOUND;
}

EXPORT int cuGetProcAddress(const char *name, void **out, int asked, uint64_t flags)
{
    return cuGetProcAddress_v2(name, out, asked, flags, NULL);
}
