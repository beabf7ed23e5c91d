/* Max pooling and batch normalisation with ReLU, forward and backward, and sums of maps, in bfloat16 and float32 on NHWC
   maps. With torch 2.14's own implementations, pools and normalisation take a quarter of a training step in bfloat16,
   and a sixth in float32. Memory bandwidth limits their speed, so each makes as few passes over memory as possible. For
   the backward pass, pooling keeps one byte per output, and normalisation keeps its input and no other map. Sums over up
   to ROWS pixels are float32; these are added up in float64.

   No instruction set is named here: the compiler takes those of its option -march (reproduce/native/levels.py).

   The caller (kernels.py) checks types, shapes and memory layouts. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>

enum {
    CHANNELS = 64, /* normalised at once, so that their sums stay in registers and the first-level cache */
    VECTORS = 4,   /* vectors of channels that are pooled at once, so that their state stays in registers */
    ROWS = 128,    /* pixels that one thread sums in float32 */
};

typedef uint16_t bf16; /* the bits of a bfloat16 */

typedef struct {
    int64_t images, height, width, channels;
    int64_t out_height, out_width;
    int64_t kernel, stride, padding; /* kernel: 1 to 16, since a tap is stored in a byte; padding: at most half of it */
} Pool;

static inline int least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Vectors of the compiler, whatever the CPU's own are. */
typedef float REALS __attribute__((vector_size(32)));
typedef int32_t WORDS __attribute__((vector_size(32)));
typedef uint32_t BITS __attribute__((vector_size(32)));

typedef struct {
    int64_t first, last; /* the windows along one side, from first to last, in which a pixel lies */
    int64_t at;          /* the pixel's place, counted from the padding's beginning */
} Windows;

/* Finds the windows along one side, of `count`, in which a pixel lies. */
static inline Windows windows(int64_t pixel, int64_t count, const Pool *p) {
    int64_t at = pixel + p->padding;
    return (Windows){at < p->kernel ? 0 : (at - p->kernel) / p->stride + 1, least(at / p->stride, count - 1), at};
}

/* Runs `work(vectors, lanes)` for all channels `c` of a pixel: VECTORS vectors of `size` at once, then one, then the rest. */
#define EACH_CHANNEL(size, work)                                                                                       \
    int64_t c = 0;                                                                                                     \
    for (; c + VECTORS * size <= p->channels; c += VECTORS * size) work(VECTORS, size);                                \
    for (; c + size <= p->channels; c += size) work(1, size);                                                          \
    if (c < p->channels) work(1, (int)(p->channels - c));

static inline float rectified(float value) { return value < 0 ? 0 : value; } /* NaN stays */

/* Computes two sums per channel over all pixels; `add` adds a pixel's contribution to `one[k]` and `two[k]`. */
#define SUMS(add)                                                                                                      \
    _Pragma("omp for schedule(static)") for (int64_t block = 0; block < (pixels + ROWS - 1) / ROWS; block++) {        \
        int64_t from = block * ROWS, end = least(from + ROWS, pixels);                                                \
        for (int64_t first = 0; first < channels; first += CHANNELS) {                                                \
            int count = least(CHANNELS, channels - first);                                                            \
            float one[CHANNELS] = {0}, two[CHANNELS] = {0};                                                           \
            for (int64_t pixel = from; pixel < end; pixel++)                                                          \
                for (int k = 0; k < count; k++) {                                                                     \
                    int64_t c = first + k, place = pixel * channels + c;                                              \
                    add                                                                                               \
                }                                                                                                     \
            for (int k = 0; k < count; k++) { mine[first + k] += one[k]; mine[channels + first + k] += two[k]; }      \
        }                                                                                                             \
    }

/* Adds up the threads' sums; each thread has both sums of every channel. */
static inline double total(const double *sums, int threads, int64_t channels, int64_t place) {
    double found = 0;
    for (int t = 0; t < threads; t++) found += sums[(size_t)t * 2 * channels + place];
    return found;
}

/* --- bfloat16 ---------------------------------------------------------------------------------------------------- */

static inline float widen_bf16(bf16 bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static inline bf16 narrow_bf16(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    bf16 rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : rounded;
}

/* A pool compares integers of the same order as the numbers; NaN is largest. */
typedef int16_t VALUES_bf16 __attribute__((vector_size(32)));
typedef int16_t PLACES_bf16 __attribute__((vector_size(32)));
typedef uint8_t TAPS_bf16 __attribute__((vector_size(16)));

static inline VALUES_bf16 load_bf16(const bf16 *from, int lanes) {
    VALUES_bf16 bits = {0};
    memcpy(&bits, from, lanes * sizeof *from);
    VALUES_bf16 size = bits & 0x7fff, sign = bits >> 15, nan = size > 0x7f80;
    return (((size ^ sign) - sign) & ~nan) | (nan & INT16_MAX);
}

static inline PLACES_bf16 nan_bf16(VALUES_bf16 values) { return (PLACES_bf16){0} & values; } /* larger than any other */

static inline void store_bf16(VALUES_bf16 values, bf16 *to, int lanes) {
    VALUES_bf16 sign = values >> 15, bits = ((values ^ sign) - sign) | (sign & INT16_MIN);
    memcpy(to, &bits, lanes * sizeof *to);
}

typedef struct {
    REALS even, odd; /* elements */
} TOTAL_bf16;

static inline void add_bf16(TOTAL_bf16 *total, const bf16 *from, PLACES_bf16 chosen, int lanes) {
    PLACES_bf16 bits = {0};
    memcpy(&bits, from, lanes * sizeof *from);
    BITS pairs = (BITS)(bits & chosen);
    total->even += (REALS)(pairs << 16);
    total->odd += (REALS)(pairs & 0xffff0000);
}

static inline BITS rounded_bf16(REALS values) {
    BITS word = (BITS)values, nan = (BITS)(values != values);
    return (((word + 0x7fff + ((word >> 16) & 1)) >> 16) & ~nan) | (nan & 0x7fc0);
}

static inline void write_total_bf16(TOTAL_bf16 total, bf16 *to, int lanes) {
    BITS pairs = rounded_bf16(total.even) | rounded_bf16(total.odd) << 16;
    memcpy(to, &pairs, lanes * sizeof *to);
}

#define NUMBER bf16
#define LANES 16
#define NAME(function) function##_bf16
#include "layers.h"

/* --- float32 ----------------------------------------------------------------------------------------------------- */

static inline float widen_float32(float value) { return value; }

static inline float narrow_float32(float value) { return value; }

typedef REALS VALUES_float32;
typedef WORDS PLACES_float32;
typedef uint8_t TAPS_float32 __attribute__((vector_size(8)));
typedef REALS TOTAL_float32;

static inline VALUES_float32 load_float32(const float *from, int lanes) {
    VALUES_float32 values = {0};
    memcpy(&values, from, lanes * sizeof *from);
    return values;
}

static inline void store_float32(VALUES_float32 values, float *to, int lanes) {
    memcpy(to, &values, lanes * sizeof *to);
}

static inline PLACES_float32 nan_float32(VALUES_float32 values) { return values != values; }

static inline void add_float32(TOTAL_float32 *total, const float *from, PLACES_float32 chosen, int lanes) {
    *total += (REALS)((WORDS)load_float32(from, lanes) & chosen);
}

static inline void write_total_float32(TOTAL_float32 total, float *to, int lanes) { store_float32(total, to, lanes); }

#define NUMBER float
#define LANES 8
#define NAME(function) function##_float32
#include "layers.h"

const char *built_with(void) {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
