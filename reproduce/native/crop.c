/* Crops of JPEGs or uncompressed pixels, resized to squares and optionally mirrored; threads share a batch of images.

   Only the crop and a margin are decoded to pixels, at 1/1, 1/2, 1/4 or 1/8 of a JPEG's size: the smallest at which the
   crop is at least 1.5 times as large as the output, or 1/1 for a smaller crop. Codes outside the crop's segments are
   skipped if the JPEG has restart markers (restart.c). Rows are resized as they are decoded, first vertically and then
   horizontally, by a triangle filter as wide as the reduction (PIL's BILINEAR with antialiasing). The arithmetic is
   fixed-point, so pixels do not depend on the compiler's optimisation or on the CPU. */

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h> /* libjpeg-turbo's: others lack jpeg_crop_scanline */

#include "minmax.h"
#include "restart.h"

enum {
    WEIGHT_BITS = 15,   /* fraction bits of a filter's weights, whose sum is 1 - 2^-15 */
    PIXEL_BITS = 6,     /* fraction bits of a vertically resized pixel: 255 << 6 fits int16 */
    MARGIN = 8,         /* pixels decoded around a crop: smoothed chroma at the edge lacks a neighbour */
    BLOCK = 64,         /* numbers that the vertical pass handles at once */
    MESSAGE_SIZE = 256, /* bytes of an image's error message; as in reproduce/data/loading/cropping.py */
};

/* --- one axis of the resize ---------------------------------------------------------------------------------------- */

typedef struct {
    int start, end;    /* source pixels that the crop touches */
    int capacity;      /* weights stored for each output */
    int most;          /* taps of the output that has the most */
    int *first, *taps; /* [outputs]: an output's first source pixel and its number of source pixels */
    int16_t *weights;  /* [outputs][capacity] */
} Axis;

static int tap_capacity(double step) { return 2 * (int)ceil(step > 1 ? step : 1) + 1; }

/* Plans to resize the crop [start, start + length) of a source of `size` pixels to `outputs` pixels. */
static void plan(Axis *axis, double start, double length, int size, int outputs, int mirrored) {
    double step = length / outputs, support = step > 1 ? step : 1;
    axis->start = (int)floor(start);
    axis->end = (int)least(size, (int64_t)ceil(start + length));
    axis->capacity = tap_capacity(step);
    axis->most = 0;
    memset(axis->weights, 0, sizeof(int16_t) * outputs * axis->capacity);
    for (int i = 0; i < outputs; i++) {
        int out = mirrored ? outputs - 1 - i : i;
        double centre = start + (i + 0.5) * step, sum = 0;
        int first = (int)most(axis->start, (int64_t)floor(centre - support + 0.5));
        int end = (int)least(axis->end, (int64_t)floor(centre + support + 0.5));
        if (first >= axis->end) first = axis->end - 1;
        if (end <= first) end = first + 1;
        int16_t *weights = axis->weights + (int64_t)out * axis->capacity;
        double exact[end - first];
        for (int k = 0; k < end - first; k++) {
            exact[k] = fmax(0, 1 - fabs(first + k + 0.5 - centre) / support);
            sum += exact[k];
        }
        int left = INT16_MAX, largest = 0;
        for (int k = 0; k < end - first; k++) {
            weights[k] = (int16_t)least(INT16_MAX, (int64_t)rint(sum > 0 ? exact[k] / sum * (1 << WEIGHT_BITS) : 0));
            left -= weights[k];
            if (weights[k] > weights[largest]) largest = k;
        }
        weights[largest] = (int16_t)(weights[largest] + left); /* the weights add up, so a flat area keeps its colour */
        axis->first[out] = first;
        axis->taps[out] = end - first;
        axis->most = (int)most(axis->most, end - first);
    }
}

/* Written so that compilers recognise one instruction for 8 to 32 numbers, such as pmulhrsw. */
static inline void add_block(int16_t *restrict sum, const uint8_t *restrict row, int count, int16_t weight) {
    int16_t pixels[BLOCK];
    for (int i = 0; i < count; i++) pixels[i] = (int16_t)(row[i] << PIXEL_BITS);
    for (int i = 0; i < count; i++)
        sum[i] += (int16_t)(((((int32_t)pixels[i] * (int32_t)weight) >> (WEIGHT_BITS - 1)) + 1) >> 1);
}

static void add_row(int16_t *restrict sum, const uint8_t *restrict row, int count, int16_t weight) {
    int at = 0;
    for (; at + BLOCK <= count; at += BLOCK) add_block(sum + at, row + at, BLOCK, weight);
    add_block(sum + at, row + at, count - at, weight);
}

typedef int16_t Narrow __attribute__((vector_size(8)));
typedef int32_t Wide __attribute__((vector_size(16)));
typedef float Reals __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(8)));

/* What is written: uint8 pixels, or pixel * scale + shift per channel. */
typedef struct {
    int bytes; /* per number: 1 for uint8, 2 for bfloat16, 4 for float32 */
    Reals scale, shift;
} Format;

static inline void store(uint8_t *out, Wide pixel, const Format *format) {
    if (format->bytes == 1) {
        for (int c = 0; c < 3; c++) out[c] = (uint8_t)pixel[c];
        return;
    }
    Reals reals = __builtin_convertvector(pixel, Reals) * format->scale + format->shift;
    if (format->bytes == 4) {
        memcpy(out, &reals, 3 * sizeof(float));
        return;
    }
    Wide bits;
    memcpy(&bits, &reals, sizeof bits);
    bits += 0x7FFF + (bits >> 16 & 1); /* rounds to nearest, ties to even */
    Halves halves = __builtin_convertvector(bits >> 16, Halves);
    memcpy(out, &halves, 3 * sizeof(uint16_t));
}

/* Computes every output from the same number of taps, so that the compiler can unroll the loop; weights beyond an
   output's own taps are zero. `row` holds 3 numbers for each pixel, beginning with pixel `from`, and is readable for
   `capacity` pixels and one number beyond its end. */
static inline __attribute__((always_inline)) void across_by(int taps, uint8_t *out, const int16_t *row,
                                                            const Axis *axis, int from, int outputs,
                                                            const Format *format) {
    const int bits = PIXEL_BITS + WEIGHT_BITS;
    for (int x = 0; x < outputs; x++) {
        const int16_t *pixel = row + 3 * (axis->first[x] - from), *weights = axis->weights + (int64_t)x * axis->capacity;
        Wide sum = {1 << (bits - 1), 1 << (bits - 1), 1 << (bits - 1), 0};
        for (int k = 0; k < taps; k++, pixel += 3) {
            Narrow narrow;
            memcpy(&narrow, pixel, sizeof narrow);
            sum += __builtin_convertvector(narrow, Wide) * weights[k];
        }
        store(out + (size_t)x * 3 * format->bytes, sum >> bits, format);
    }
}

static void across(uint8_t *out, const int16_t *row, const Axis *axis, int from, int outputs, const Format *format) {
    switch (axis->most) {
    case 1: case 2: across_by(2, out, row, axis, from, outputs, format); break;
    case 3: across_by(3, out, row, axis, from, outputs, format); break;
    case 4: across_by(4, out, row, axis, from, outputs, format); break;
    case 5: across_by(5, out, row, axis, from, outputs, format); break;
    default: across_by(axis->most, out, row, axis, from, outputs, format);
    }
}

/* --- one image ----------------------------------------------------------------------------------------------------- */

typedef struct {
    void *start;
    size_t size;
} Memory;

/* What a thread keeps from image to image. */
typedef struct {
    struct jpeg_error_mgr errors; /* must be first: libjpeg passes its address to the callbacks */
    jmp_buf escape;
    struct jpeg_decompress_struct jpeg;
    int created; /* whether `jpeg` has been initialised */
    char *message;
    Memory arrays, region; /* an image's `Arrays`; the JPEG of the region that its crop needs */
} Decoder;

/* An image in an FFCV file, as the file's tables describe it. */
typedef struct {
    const uint8_t *data; /* the file's content from `offset` on */
    int64_t file_size, offset, size, height, width;
    int is_jpeg;
} Stored;

static void fail(Decoder *decoder, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(decoder->message, MESSAGE_SIZE, format, values);
    va_end(values);
    longjmp(decoder->escape, 1);
}

static void on_error(j_common_ptr jpeg) {
    char text[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, text);
    fail((Decoder *)jpeg->err, "%s", text);
}

/* libjpeg only warns of damaged codes and makes up the pixels. */
static void on_message(j_common_ptr jpeg, int level) {
    if (warns_of_damage(jpeg, level)) on_error(jpeg);
}

/* Takes the next bytes of `memory`, aligned for every type; only counts them in `at` if there is no memory yet. */
static void *piece(uint8_t *memory, size_t *at, size_t bytes) {
    void *here = memory ? memory + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return here;
}

typedef struct {
    Axis axes[2];  /* down, across */
    uint8_t *ring; /* the last decoded rows, row y at y % ring_rows */
    int16_t *sum;  /* a row of the vertically resized crop */
} Arrays;

static size_t lay_out(uint8_t *memory, Arrays *arrays, int outputs, size_t row_bytes, int ring_rows) {
    size_t at = 0;
    for (Axis *axis = arrays->axes; axis < arrays->axes + 2; axis++) {
        axis->first = piece(memory, &at, sizeof(int) * outputs);
        axis->taps = piece(memory, &at, sizeof(int) * outputs);
        axis->weights = piece(memory, &at, sizeof(int16_t) * outputs * axis->capacity);
    }
    arrays->ring = piece(memory, &at, row_bytes * ring_rows);
    arrays->sum = piece(memory, &at, sizeof(int16_t) * (row_bytes + 3 * arrays->axes[1].capacity + 1));
    return at;
}

static void *at_least(Decoder *decoder, Memory *memory, size_t size) {
    if (size > memory->size) {
        free(memory->start);
        memory->size = 0;
        memory->start = aligned_alloc(64, (size + 63) / 64 * 64);
        if (!memory->start) fail(decoder, "no memory for it");
        memory->size = size;
    }
    return memory->start;
}

/* Starts to decode the region `wanted`, or the whole image if its JPEG has no markers; returns the region decoded. */
static Region start_jpeg(Decoder *decoder, const Stored *stored, const Region *wanted, int shrink) {
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    Region image = {0, 0, (int)stored->height, (int)stored->width}, region;
    uint8_t *extracted = at_least(decoder, &decoder->region, (size_t)stored->size);
    int64_t size = extract_region(stored->data, stored->size, &image, wanted, &region, extracted);
    if (!size) region = image;
    jpeg_mem_src(jpeg, size ? extracted : stored->data, (unsigned long)(size ? size : stored->size));
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_height != (JDIMENSION)region.height || jpeg->image_width != (JDIMENSION)region.width)
        fail(decoder, "%ux%u pixels, and the file's table says %" PRId64 "x%" PRId64, jpeg->image_width,
             jpeg->image_height, stored->width, stored->height);
    jpeg->out_color_space = JCS_RGB;
    jpeg->scale_num = 1;
    jpeg->scale_denom = (unsigned)shrink;
    jpeg_start_decompress(jpeg);
    return region;
}

/* Extends the pixels [start, start + length) of `size` by `margin` on either side, as far as there are any. */
static void widen(int *start, int *length, int margin, int64_t size) {
    int end = (int)least(size, (int64_t)*start + *length + margin);
    *start = (int)most(0, *start - margin);
    *length = end - *start;
}

/* Fails unless the image's bytes lie within the file and the box within the image. */
static void check(Decoder *decoder, const Stored *stored, const int64_t box[5]) {
    if (stored->size <= 0 || stored->offset < 0 || stored->size > stored->file_size - stored->offset)
        fail(decoder, "its %" PRId64 " bytes at %" PRId64 " are not within the file's %" PRId64, stored->size,
             stored->offset, stored->file_size);
    if (stored->height < 1 || stored->width < 1 || most(stored->height, stored->width) > UINT16_MAX)
        fail(decoder, "%" PRId64 "x%" PRId64 " pixels; sides are 1 to %d", stored->width, stored->height, UINT16_MAX);
    if (box[0] < 0 || box[2] < 1 || box[2] > stored->height || box[0] > stored->height - box[2] || box[1] < 0 ||
        box[3] < 1 || box[3] > stored->width || box[1] > stored->width - box[3])
        fail(decoder, "the crop lies outside its %" PRId64 "x%" PRId64 " pixels", stored->width, stored->height);
    if (!stored->is_jpeg && stored->size != 3 * stored->height * stored->width)
        fail(decoder, "%" PRId64 " bytes are not %" PRId64 "x%" PRId64 " pixels", stored->size, stored->width,
             stored->height);
}

static void crop_one(Decoder *decoder, const Stored *stored, const int64_t box[5], int side, uint8_t *out,
                     const Format *format) {
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    int shrink = 1, rows = (int)stored->height, columns = (int)stored->width;
    Region region = {0};
    if (stored->is_jpeg) {
        while (shrink < 8 && least(box[2], box[3]) >= 3 * shrink * side) shrink *= 2;
        Region wanted = {(int)box[0], (int)box[1], (int)box[2], (int)box[3]};
        widen(&wanted.top, &wanted.height, MARGIN * shrink, rows);
        widen(&wanted.left, &wanted.width, MARGIN * shrink, columns);
        region = start_jpeg(decoder, stored, &wanted, shrink);
        region.top /= shrink; /* exact: regions begin at multiples of 8 pixels */
        region.left /= shrink;
        rows = (rows + shrink - 1) / shrink;
        columns = (columns + shrink - 1) / shrink;
    }
    double top = (double)box[0] / shrink, left = (double)box[1] / shrink;
    double height = (double)box[2] / shrink, width = (double)box[3] / shrink;

    /* Columns [x, x + span) of the rows from y on are read. */
    int from = (int)left, to = (int)least(columns, (int64_t)ceil(left + width)), y = (int)top;
    JDIMENSION x = 0, span = (JDIMENSION)columns;
    if (stored->is_jpeg) {
        y = (int)most(region.top, y - MARGIN);
        x = (JDIMENSION)(most(region.left, from - MARGIN) - region.left);
        span = (JDIMENSION)(least(columns, to + MARGIN) - region.left) - x;
        if (span < jpeg->output_width) jpeg_crop_scanline(jpeg, &x, &span);
        if (y > region.top) jpeg_skip_scanlines(jpeg, (JDIMENSION)(y - region.top));
        x += (JDIMENSION)region.left;
    }

    Arrays arrays = {0};
    Axis *vertical = &arrays.axes[0], *horizontal = &arrays.axes[1];
    vertical->capacity = tap_capacity(height / side);
    horizontal->capacity = tap_capacity(width / side);
    int ring_rows = stored->is_jpeg ? vertical->capacity : 0;
    size_t row_bytes = (size_t)span * 3, need = lay_out(NULL, &arrays, side, row_bytes, ring_rows);
    lay_out(at_least(decoder, &decoder->arrays, need), &arrays, side, row_bytes, ring_rows);
    plan(vertical, top, height, rows, side, 0);
    plan(horizontal, left, width, columns, side, (int)box[4]);

    int numbers = 3 * (to - from);
    for (int line = 0; line < side; line++) {
        const int16_t *weights = vertical->weights + (int64_t)line * vertical->capacity;
        int first = vertical->first[line], end = first + vertical->taps[line];
        for (; stored->is_jpeg && y < end; y++) {
            JSAMPROW row = arrays.ring + (size_t)(y % ring_rows) * row_bytes;
            jpeg_read_scanlines(jpeg, &row, 1);
        }
        memset(arrays.sum, 0, sizeof(int16_t) * numbers);
        for (int k = 0; k < end - first; k++) {
            const uint8_t *row = stored->is_jpeg ? arrays.ring + (size_t)((first + k) % ring_rows) * row_bytes
                                                 : stored->data + (size_t)(first + k) * row_bytes;
            add_row(arrays.sum, row + 3 * (from - (int)x), numbers, weights[k]);
        }
        across(out + (size_t)line * side * 3 * format->bytes, arrays.sum, horizontal, from, side, format);
    }
    if (stored->is_jpeg) jpeg_abort_decompress(jpeg);
}

/* The function that calls setjmp: it changes no local variable, for longjmp would leave its value undefined. */
static void crop_or_explain(Decoder *decoder, const Stored *stored, const int64_t box[5], int side, uint8_t *out,
                            const Format *format) {
    if (setjmp(decoder->escape) != 0) {
        if (decoder->created) jpeg_abort_decompress(&decoder->jpeg);
        else jpeg_destroy_decompress(&decoder->jpeg);
        return;
    }
    check(decoder, stored, box);
    if (!decoder->created) {
        jpeg_create_decompress(&decoder->jpeg);
        decoder->created = 1;
    }
    crop_one(decoder, stored, box, side, out, format);
}

/* --- a batch ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *file;
    int64_t file_size, count;
    const int64_t *offsets, *sizes, *heights, *widths;
    const uint8_t *is_jpeg;
    const int64_t (*boxes)[5];
    int side;
    uint8_t *out;
    Format format;
    char (*messages)[MESSAGE_SIZE];
    atomic_int_least64_t next;
} Batch;

static void *work(void *argument) {
    Batch *batch = argument;
    Decoder decoder = {0};
    decoder.jpeg.err = jpeg_std_error(&decoder.errors);
    decoder.errors.error_exit = on_error;
    decoder.errors.emit_message = on_message;
    int64_t i;
    while ((i = atomic_fetch_add(&batch->next, 1)) < batch->count) {
        int64_t offset = batch->offsets[i];
        int inside = offset >= 0 && offset <= batch->file_size;
        Stored stored = {inside ? batch->file + offset : NULL, batch->file_size, offset, batch->sizes[i],
                         batch->heights[i], batch->widths[i], batch->is_jpeg[i]};
        decoder.message = batch->messages[i];
        crop_or_explain(&decoder, &stored, batch->boxes[i], batch->side,
                        batch->out + (size_t)i * batch->side * batch->side * 3 * batch->format.bytes, &batch->format);
    }
    if (decoder.created) jpeg_destroy_decompress(&decoder.jpeg);
    free(decoder.arrays.start);
    free(decoder.region.start);
    return NULL;
}

/* Writes [count][side][side][3] numbers of `bytes` bytes (see Format) to `out`. Writes a message for each image that is
   damaged or whose bytes or box lie outside the file or the image. Messages of other images are not changed. */
void crop_batch(const uint8_t *file, int64_t file_size, int64_t count, const int64_t *offsets, const int64_t *sizes,
                const int64_t *heights, const int64_t *widths, const uint8_t *is_jpeg, const int64_t (*boxes)[5],
                int side, uint8_t *out, int bytes, const float scale[3], const float shift[3], int threads,
                char (*messages)[MESSAGE_SIZE]) {
    Format format = {bytes, {scale[0], scale[1], scale[2], 0}, {shift[0], shift[1], shift[2], 0}};
    Batch batch = {file,  file_size, count, offsets, sizes,    heights, widths, is_jpeg,
                   boxes, side,      out,   format,  messages, 0};
    int helpers = (int)least(threads, count) - 1, started = 0;
    pthread_t helper[helpers > 0 ? helpers : 1];
    while (started < helpers && pthread_create(&helper[started], NULL, work, &batch) == 0) started++;
    work(&batch);
    while (started > 0) pthread_join(helper[--started], NULL);
}

#define TEXT(value) #value
#define TEXT_OF(macro) TEXT(macro)
const char *built_with(void) { return "libjpeg-turbo " TEXT_OF(LIBJPEG_TURBO_VERSION); }
