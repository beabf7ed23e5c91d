/* Max pooling, and batch normalisation with ReLU, in bfloat16 on NHWC maps, forward and backward. With torch 2.14's own
   implementations, they take a quarter of a training step on a CPU. Memory bandwidth limits their speed, so each makes
   as few passes over memory as possible. For the backward pass, pooling keeps one byte per output, and normalisation
   keeps its input and no other map. Sums over up to ROWS pixels are float32; these are added up in float64.

   The caller (kernels.py) checks types, shapes and memory layouts. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <omp.h>

enum {
    CHANNELS = 64, /* handled at once, so that their state stays in registers and the first-level cache */
    ROWS = 128,    /* pixels that one thread sums in float32 */
};

typedef uint16_t bf16; /* the bits of a bfloat16 */

typedef struct {
    int64_t images, height, width, channels;
    int64_t out_height, out_width;
    int64_t kernel, stride, padding; /* kernel: 1 to 16, since a tap is stored in a byte; padding: at most half of it */
} Pool;

static inline float widen(bf16 bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static inline bf16 narrow(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    bf16 rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : rounded;
}

static inline int least(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- max pooling ------------------------------------------------------------------------------------------------- */

/* Maps a bfloat16 to an integer of the same order. NaN is largest, since a pool propagates it. */
static inline int16_t ordered(bf16 bits) {
    int16_t size = bits & 0x7fff, value = bits & 0x8000 ? -size : size;
    return size > 0x7f80 ? INT16_MAX : value;
}

static inline bf16 bits_of(int16_t value) { return value < 0 ? 0x8000 | -value : value; }

/* Computes one output pixel. Writes to `taps`, unless NULL, which pixel of the window is the largest, the first of
   several as in torch. */
static inline void pool_pixel(const Pool *p, const bf16 *image, int64_t top, int64_t left, bf16 *to, uint8_t *taps) {
    for (int64_t first = 0; first < p->channels; first += CHANNELS) {
        int count = least(CHANNELS, p->channels - first);
        int16_t best[CHANNELS], tap[CHANNELS];
        int begun = 0;
        for (int64_t t = 0; t < p->kernel * p->kernel; t++) {
            int64_t i = top + t / p->kernel, j = left + t % p->kernel;
            if (i < 0 || i >= p->height || j < 0 || j >= p->width) continue;
            const bf16 *from = image + (i * p->width + j) * p->channels + first;
            if (!begun) {
                for (int c = 0; c < count; c++) { best[c] = ordered(from[c]); tap[c] = t; }
                begun = 1;
            } else if (taps) {
                for (int c = 0; c < count; c++) {
                    int16_t value = ordered(from[c]), more = value > best[c];
                    best[c] = more ? value : best[c];
                    tap[c] = more ? (int16_t)t : tap[c];
                }
            } else {
                for (int c = 0; c < count; c++) {
                    int16_t value = ordered(from[c]);
                    best[c] = value > best[c] ? value : best[c];
                }
            }
        }
        for (int c = 0; c < count; c++) to[first + c] = bits_of(best[c]);
        if (taps) for (int c = 0; c < count; c++) taps[first + c] = tap[c];
    }
}

/* Computes the maximum of each window. `taps` receives its place in the window for the backward pass; NULL if there is
   no backward pass. */
void max_pool(const Pool *p, const bf16 *x, bf16 *y, uint8_t *taps, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < p->images * p->out_height; row++) {
        const bf16 *image = x + row / p->out_height * p->height * p->width * p->channels;
        int64_t top = row % p->out_height * p->stride - p->padding;
        for (int64_t column = 0; column < p->out_width; column++) {
            int64_t place = (row * p->out_width + column) * p->channels;
            bf16 *to = y + place;
            if (taps) pool_pixel(p, image, top, column * p->stride - p->padding, to, taps + place);
            else pool_pixel(p, image, top, column * p->stride - p->padding, to, NULL);
        }
    }
}

/* Each input pixel gathers the gradient from the windows that it lies in, so every pixel is written exactly once. */
void max_pool_backward(const Pool *p, const bf16 *grad_y, const uint8_t *taps, bf16 *grad_x, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < p->images * p->height; row++) {
        int64_t image = row / p->height, i = row % p->height + p->padding;
        for (int64_t column = 0; column < p->width; column++) {
            int64_t j = column + p->padding;
            bf16 *to = grad_x + (row * p->width + column) * p->channels;
            for (int64_t first = 0; first < p->channels; first += CHANNELS) {
                int count = least(CHANNELS, p->channels - first);
                float sum[CHANNELS] = {0};
                for (int64_t down = i % p->stride; down < p->kernel && down <= i; down += p->stride) {
                    int64_t out_i = (i - down) / p->stride;
                    if (out_i >= p->out_height) continue;
                    for (int64_t across = j % p->stride; across < p->kernel && across <= j; across += p->stride) {
                        int64_t out_j = (j - across) / p->stride;
                        if (out_j >= p->out_width) continue;
                        int64_t place = ((image * p->out_height + out_i) * p->out_width + out_j) * p->channels + first;
                        uint8_t tap = down * p->kernel + across;
                        for (int c = 0; c < count; c++)
                            sum[c] += taps[place + c] == tap ? widen(grad_y[place + c]) : 0.0f;
                    }
                }
                for (int c = 0; c < count; c++) to[first + c] = narrow(sum[c]);
            }
        }
    }
}

/* --- batch normalisation and ReLU -------------------------------------------------------------------------------- */

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

/* y = relu(weight * (x - mean) / sqrt(variance + eps) + bias). Writes the mean, the biased variance and the inverse of
   the standard deviation. There must be at least one pixel. Returns 0, or 1 if there is no memory for the sums. */
int norm_relu(const bf16 *x, bf16 *y, int64_t pixels, int64_t channels, const float *weight, const float *bias,
              float eps, float *mean, float *variance, float *inverse, int threads) {
    double *sums = calloc((size_t)threads * 2 * channels, sizeof *sums);
    float *line = malloc(3 * (size_t)channels * sizeof *line);
    if (!sums || !line) { free(sums); free(line); return 1; }
    float *scale = line, *offset = line + channels, *shift = line + 2 * channels;
    for (int64_t c = 0; c < channels; c++) shift[c] = widen(x[c]); /* a value near the mean, so that squares lose few digits */
    #pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (size_t)omp_get_thread_num() * 2 * channels;
        SUMS(float value = widen(x[place]) - shift[c]; one[k] += value; two[k] += value * value;)
        #pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            double sum = total(sums, threads, channels, c), squares = total(sums, threads, channels, channels + c);
            double average = sum / pixels, spread = squares / pixels - average * average;
            mean[c] = shift[c] + average;
            variance[c] = spread < 0 ? 0 : spread;
            inverse[c] = 1 / sqrt((double)variance[c] + eps);
            scale[c] = weight[c] * inverse[c];
            offset[c] = bias[c] - mean[c] * scale[c];
        }
        #pragma omp for schedule(static)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const bf16 *from = x + pixel * channels;
            bf16 *to = y + pixel * channels;
            for (int64_t c = 0; c < channels; c++) to[c] = narrow(rectified(widen(from[c]) * scale[c] + offset[c]));
        }
    }
    free(sums);
    free(line);
    return 0;
}

/* Computes the gradients of x, weight and bias from that of y; recomputes from x which values ReLU let through. Returns
   0, or 1 if there is no memory for the sums. */
int norm_relu_backward(const bf16 *x, const bf16 *grad_y, bf16 *grad_x, int64_t pixels, int64_t channels,
                       const float *weight, const float *bias, const float *mean, const float *inverse,
                       float *grad_weight, float *grad_bias, int threads) {
    double *sums = calloc((size_t)threads * 2 * channels, sizeof *sums);
    float *line = malloc(4 * (size_t)channels * sizeof *line);
    if (!sums || !line) { free(sums); free(line); return 1; }
    float *scale = line, *offset = line + channels, *slope = line + 2 * channels, *rest = line + 3 * channels;
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = weight[c] * inverse[c];
        offset[c] = bias[c] - mean[c] * scale[c];
    }
    #pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (size_t)omp_get_thread_num() * 2 * channels;
        SUMS(float value = widen(x[place]);
             float grad = value * scale[c] + offset[c] <= 0 ? 0 : widen(grad_y[place]);
             one[k] += grad; two[k] += grad * (value - mean[c]);)
        #pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            double sum = total(sums, threads, channels, c), product = total(sums, threads, channels, channels + c);
            grad_bias[c] = sum;
            grad_weight[c] = product * inverse[c];
            /* scale * (grad - sum / pixels - (x - mean) * inverse^2 * product / pixels) as a linear function of x */
            double steep = -(double)scale[c] * inverse[c] * inverse[c] * product / pixels;
            slope[c] = steep;
            rest[c] = -(double)scale[c] * sum / pixels - steep * mean[c];
        }
        #pragma omp for schedule(static)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const bf16 *from = x + pixel * channels, *grads = grad_y + pixel * channels;
            bf16 *to = grad_x + pixel * channels;
            for (int64_t c = 0; c < channels; c++) {
                float value = widen(from[c]);
                float grad = value * scale[c] + offset[c] <= 0 ? 0 : widen(grads[c]);
                to[c] = narrow(scale[c] * grad + (slope[c] * value + rest[c]));
            }
        }
    }
    free(sums);
    free(line);
    return 0;
}

const char *built_with(void) {
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
