/* Max pooling, and batch normalisation with ReLU, for one type of map. kernels.c includes this file once for each type,
   with these macros, which are undefined at the end:

   NUMBER: the type of a map's elements;
   LANES: how many of them a vector holds;
   NAME(function): the function's name with the type's name at its end.

   The file that includes this one defines for each type

   widen and narrow: conversions to and from float, the latter rounded;
   VALUES, load, store, nan: a vector in which a pool compares elements, with its lanes that make a pool give NaN;
   PLACES, TAPS: vectors of as many integers, of the size of a value and of a byte;
   TOTAL, add, write_total: the sums in float32 of a vector's elements, which adds those that are chosen.

   All that reads or writes memory takes the number of lanes to use. */

#define widen NAME(widen)
#define narrow NAME(narrow)
#define load NAME(load)
#define store NAME(store)
#define nan NAME(nan)
#define add NAME(add)
#define write_total NAME(write_total)
#define VALUES NAME(VALUES)
#define PLACES NAME(PLACES)
#define TAPS NAME(TAPS)
#define TOTAL NAME(TOTAL)

/* --- max pooling ------------------------------------------------------------------------------------------------- */

/* Computes `vectors` vectors of channels, each of `lanes`, of one output pixel, whose window begins at (above, before).
   Writes to `taps`, unless NULL, which pixel of the window is the largest, the first of several as in torch. */
static inline __attribute__((always_inline)) void NAME(pool_pixel)(
    const Pool *p, const NUMBER *image, int64_t above, int64_t before, NUMBER *to, uint8_t *taps, int vectors,
    int lanes) {
    int64_t top = above < 0 ? 0 : above, bottom = least(above + p->kernel, p->height);
    int64_t left = before < 0 ? 0 : before, right = least(before + p->kernel, p->width);
    VALUES best[VECTORS];
    PLACES place[VECTORS];
    for (int v = 0; v < vectors; v++) {
        best[v] = load(image + (top * p->width + left) * p->channels + v * LANES, lanes);
        place[v] = (PLACES){0} + (int16_t)((top - above) * p->kernel + left - before);
    }
    for (int64_t i = top; i < bottom; i++) {
        const NUMBER *from = image + (i * p->width + left) * p->channels;
        PLACES here = (PLACES){0} + (int16_t)((i - above) * p->kernel + left - before);
        for (int64_t j = left; j < right; j++, here += 1, from += p->channels)
            for (int v = 0; v < vectors; v++) {
                VALUES value = load(from + v * LANES, lanes);
                PLACES more = (value > best[v]) | nan(value); /* a pool hands on NaN */
                best[v] = (VALUES)((more & (PLACES)value) | (~more & (PLACES)best[v]));
                if (taps) place[v] = (more & here) | (~more & place[v]);
            }
    }
    for (int v = 0; v < vectors; v++) {
        store(best[v], to + v * LANES, lanes);
        TAPS tap = __builtin_convertvector(place[v], TAPS);
        if (taps) memcpy(taps + v * LANES, &tap, lanes);
    }
}

/* Computes the maximum of each window. `taps` receives its place in the window for the backward pass; NULL if there is
   no backward pass. */
void NAME(max_pool)(const Pool *p, const NUMBER *x, NUMBER *y, uint8_t *taps, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < p->images * p->out_height; row++) {
        const NUMBER *image = x + row / p->out_height * p->height * p->width * p->channels;
        int64_t above = row % p->out_height * p->stride - p->padding;
        for (int64_t column = 0; column < p->out_width; column++) {
            int64_t before = column * p->stride - p->padding, pixel = (row * p->out_width + column) * p->channels;
            #define POOL(vectors, lanes)                                                                               \
                taps ? NAME(pool_pixel)(p, image + c, above, before, y + pixel + c, taps + pixel + c, vectors, lanes) \
                     : NAME(pool_pixel)(p, image + c, above, before, y + pixel + c, NULL, vectors, lanes)
            EACH_CHANNEL(LANES, POOL)
            #undef POOL
        }
    }
}

/* Sums channels of the gradient of one input pixel, as pool_pixel counts them, over the windows in which it lies. */
static inline __attribute__((always_inline)) void NAME(pool_gradient)(
    const Pool *p, const NUMBER *grad_y, int64_t step, const uint8_t *taps, Windows rows, Windows columns, NUMBER *to,
    int vectors, int lanes) {
    TOTAL sum[VECTORS] = {0};
    for (int64_t i = rows.first; i <= rows.last; i++)
        for (int64_t j = columns.first; j <= columns.last; j++) {
            int64_t pixel = i * p->out_width + j;
            uint8_t tap = (rows.at - i * p->stride) * p->kernel + columns.at - j * p->stride;
            for (int v = 0; v < vectors; v++) {
                TAPS found = {0};
                memcpy(&found, taps + pixel * p->channels + v * LANES, lanes);
                add(&sum[v], grad_y + pixel * step + v * LANES, __builtin_convertvector(found == tap, PLACES), lanes);
            }
        }
    for (int v = 0; v < vectors; v++) write_total(sum[v], to + v * LANES, lanes);
}

/* Each input pixel gathers the gradient from the windows in which it lies, so every pixel is written exactly once. From
   one pixel of `grad_y` to the next it is `step` elements. */
void NAME(max_pool_backward)(const Pool *p, const NUMBER *grad_y, int64_t step, const uint8_t *taps, NUMBER *grad_x,
                             int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < p->images * p->height; row++) {
        int64_t image = row / p->height * p->out_height * p->out_width;
        const NUMBER *grads = grad_y + image * step;
        const uint8_t *of_image = taps + image * p->channels;
        Windows rows = windows(row % p->height, p->out_height, p);
        for (int64_t column = 0; column < p->width; column++) {
            Windows columns = windows(column, p->out_width, p);
            NUMBER *to = grad_x + (row * p->width + column) * p->channels;
            #define GATHER(vectors, lanes)                                                                             \
                NAME(pool_gradient)(p, grads + c, step, of_image + c, rows, columns, to + c, vectors, lanes)
            EACH_CHANNEL(LANES, GATHER)
            #undef GATHER
        }
    }
}

/* --- batch normalisation and ReLU -------------------------------------------------------------------------------- */

/* y = relu(weight * (x - mean) / sqrt(variance + eps) + bias). In training, writes the mean and the biased variance of
   x; otherwise, reads both. Writes the inverse of the standard deviation. There must be at least one pixel. Returns 0,
   or 1 if there is no memory for the sums. */
int NAME(norm_relu)(const NUMBER *x, NUMBER *y, int64_t pixels, int64_t channels, const float *weight,
                    const float *bias, float eps, int training, float *mean, float *variance, float *inverse,
                    int threads) {
    double *sums = calloc((size_t)threads * 2 * channels, sizeof *sums);
    float *line = malloc(3 * (size_t)channels * sizeof *line);
    if (!sums || !line) { free(sums); free(line); return 1; }
    float *scale = line, *offset = line + channels, *shift = line + 2 * channels;
    for (int64_t c = 0; c < channels; c++) shift[c] = widen(x[c]); /* near the mean, so that squares lose few digits */
    #pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (size_t)omp_get_thread_num() * 2 * channels;
        if (training) SUMS(float value = widen(x[place]) - shift[c]; one[k] += value; two[k] += value * value;)
        #pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            if (training) {
                double sum = total(sums, threads, channels, c), squares = total(sums, threads, channels, channels + c);
                double average = sum / pixels, spread = squares / pixels - average * average;
                mean[c] = shift[c] + average;
                variance[c] = spread < 0 ? 0 : spread;
            }
            inverse[c] = 1 / sqrt((double)variance[c] + eps);
            scale[c] = weight[c] * inverse[c];
            offset[c] = bias[c] - mean[c] * scale[c];
        }
        #pragma omp for schedule(static)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const NUMBER *from = x + pixel * channels;
            NUMBER *to = y + pixel * channels;
            for (int64_t c = 0; c < channels; c++) to[c] = narrow(rectified(widen(from[c]) * scale[c] + offset[c]));
        }
    }
    free(sums);
    free(line);
    return 0;
}

/* Computes the gradients of x, weight and bias from that of y; recomputes from x which values ReLU let through. In
   training, the statistics depend on x. From one pixel of `grad_y` to the next it is `step` elements. Returns 0, or 1 if
   there is no memory for the sums. */
int NAME(norm_relu_backward)(const NUMBER *x, const NUMBER *grad_y, int64_t step, NUMBER *grad_x, int64_t pixels,
                             int64_t channels, const float *weight, const float *bias, int training, const float *mean,
                             const float *inverse, float *grad_weight, float *grad_bias, int threads) {
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
             float grad = value * scale[c] + offset[c] <= 0 ? 0 : widen(grad_y[pixel * step + c]);
             one[k] += grad; two[k] += grad * (value - mean[c]);)
        #pragma omp single
        for (int64_t c = 0; c < channels; c++) {
            double sum = total(sums, threads, channels, c), product = total(sums, threads, channels, channels + c);
            grad_bias[c] = sum;
            grad_weight[c] = product * inverse[c];
            /* scale * (grad - sum / pixels - (x - mean) * inverse^2 * product / pixels) as a linear function of x */
            double steep = training ? -(double)scale[c] * inverse[c] * inverse[c] * product / pixels : 0;
            slope[c] = steep;
            rest[c] = training ? -(double)scale[c] * sum / pixels - steep * mean[c] : 0;
        }
        #pragma omp for schedule(static)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const NUMBER *from = x + pixel * channels, *grads = grad_y + pixel * step;
            NUMBER *to = grad_x + pixel * channels;
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

/* --- sums of maps ------------------------------------------------------------------------------------------------ */

/* Adds up `count` maps in one pass, in their order and in float32. From one pixel of map k to the next it is steps[k]
   elements. */
void NAME(sum_maps)(const NUMBER *const *maps, const int64_t *steps, int count, NUMBER *sum, int64_t pixels,
                    int64_t channels, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
        const NUMBER *one = maps[0] + pixel * steps[0], *two = maps[1] + pixel * steps[1];
        const NUMBER *three = count > 2 ? maps[2] + pixel * steps[2] : NULL;
        const NUMBER *four = count > 3 ? maps[3] + pixel * steps[3] : NULL;
        NUMBER *restrict to = sum + pixel * channels;
        if (four)
            for (int64_t c = 0; c < channels; c++)
                to[c] = narrow(widen(one[c]) + widen(two[c]) + widen(three[c]) + widen(four[c]));
        else if (three)
            for (int64_t c = 0; c < channels; c++) to[c] = narrow(widen(one[c]) + widen(two[c]) + widen(three[c]));
        else
            for (int64_t c = 0; c < channels; c++) to[c] = narrow(widen(one[c]) + widen(two[c]));
    }
}

#undef widen
#undef narrow
#undef load
#undef store
#undef nan
#undef add
#undef write_total
#undef VALUES
#undef PLACES
#undef TAPS
#undef TOTAL
#undef NUMBER
#undef LANES
#undef NAME
