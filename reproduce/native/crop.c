/* Crop, resize and flip of JPEGs or stored pixels, a batch a call, over threads; and the random boxes.

   A JPEG is decoded at 1/1, 1/2, 1/4 or 1/8, as far as the crop stays one and a half times as large as the output, and
   only where the crop lies; of one with restart markers (parts.c) nothing else is even read. Rows are resized as they
   are decoded: down first, then across, with a triangle filter as wide as the reduction (PIL's BILINEAR with
   antialiasing). Fixed-point arithmetic: the same pixels on every machine. */

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h> /* libjpeg-turbo's: others lack jpeg_crop_scanline */
#include <jerror.h>

#include "parts.h"

enum {
    WEIGHT_BITS = 15, /* of a filter's weights, whose sum is one */
    PIXEL_BITS = 6,   /* fraction bits of what the first pass leaves: 255 << 6 fits int16 */
    MARGIN = 8,       /* pixels read around a crop: at the edge of what is read, chroma lacks a neighbour to smooth with */
    BLOCK = 64,
    MESSAGE = 256,
};

/* --- random boxes: the numbers of reproduce/data/decoding.py, bit for bit ---------------------------------------- */

static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static const uint64_t GOLDEN = UINT64_C(0x9E3779B97F4A7C15);

static double uniform(uint64_t stream, int draw) {
    return (double)(mix(stream + GOLDEN * ((uint64_t)draw + 1)) >> 11) * 0x1p-53;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* limits: scale from, to; aspect ratio from, to; logarithms of the latter. boxes: [count][5] = top, left, height,
   width, mirrored. */
void random_boxes(uint64_t key, const double limits[6], int flip, int64_t count, const int64_t *indices,
                  const int64_t *heights, const int64_t *widths, int64_t (*boxes)[5]) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t stream = mix(key ^ mix((uint64_t)indices[i] + GOLDEN));
        int64_t height = heights[i], width = widths[i], *box = boxes[i], h, w;
        int found = 0;
        box[4] = flip && uniform(stream, 0) < 0.5;
        for (int draw = 1; draw <= 37 && !found; draw += 4) {
            double area = (double)(height * width) * (limits[0] + (limits[1] - limits[0]) * uniform(stream, draw));
            double ratio = exp(limits[4] + (limits[5] - limits[4]) * uniform(stream, draw + 1));
            w = (int64_t)rint(sqrt(area * ratio));
            h = (int64_t)rint(sqrt(area / ratio));
            found = 0 < w && w <= width && 0 < h && h <= height;
            if (found) {
                box[0] = (int64_t)(uniform(stream, draw + 2) * (double)(height - h + 1));
                box[1] = (int64_t)(uniform(stream, draw + 3) * (double)(width - w + 1));
            }
        }
        if (!found) {
            w = least(width, most(1, (int64_t)rint((double)height * limits[3])));
            h = least(height, most(1, (int64_t)rint((double)width / limits[2])));
            box[0] = (height - h) / 2;
            box[1] = (width - w) / 2;
        }
        box[2] = h;
        box[3] = w;
    }
}

/* --- one axis of the resize ---------------------------------------------------------------------------------------- */

typedef struct {
    int from, to;      /* source pixels that the crop touches */
    int widest;        /* room for an output's taps */
    int most;          /* taps of the output that has most */
    int *first, *taps; /* by output; `first` counts from the source's beginning */
    int16_t *weights;  /* [outputs][widest] */
} Axis;

static int widest_of(double step) { return 2 * (int)ceil(step > 1 ? step : 1) + 1; }

/* The crop [start, start + length) of a source of `size` pixels, in source pixels, as `outputs` pixels. */
static void plan(Axis *axis, double start, double length, int size, int outputs, int mirrored) {
    double step = length / outputs, support = step > 1 ? step : 1;
    axis->from = (int)floor(start);
    axis->to = (int)least(size, (int64_t)ceil(start + length));
    axis->widest = widest_of(step);
    axis->most = 0;
    memset(axis->weights, 0, sizeof(int16_t) * outputs * axis->widest);
    for (int i = 0; i < outputs; i++) {
        int out = mirrored ? outputs - 1 - i : i;
        double centre = start + (i + 0.5) * step, sum = 0;
        int first = (int)most(axis->from, (int64_t)floor(centre - support + 0.5));
        int end = (int)least(axis->to, (int64_t)floor(centre + support + 0.5));
        if (first >= axis->to) first = axis->to - 1;
        if (end <= first) end = first + 1;
        int16_t *weights = axis->weights + (int64_t)out * axis->widest;
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
        weights[largest] = (int16_t)(weights[largest] + left); /* the sum is one, so a flat area keeps its colour */
        axis->first[out] = first;
        axis->taps[out] = end - first;
        axis->most = (int)most(axis->most, end - first);
    }
}

/* In a form that compilers know as one instruction on 8 to 32 numbers (pmulhrsw and its like). */
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

/* What is written: uint8 pixels, or pixel * scale + shift by channel. */
typedef struct {
    int bytes; /* of a number: 1 uint8, 2 bfloat16, 4 float32 */
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
    bits += 0x7FFF + (bits >> 16 & 1); /* to the nearest, ties to even */
    Halves halves = __builtin_convertvector(bits >> 16, Halves);
    memcpy(out, &halves, 3 * sizeof(uint16_t));
}

/* Every output from the same number of taps, so that the compiler can unroll them; weights beyond an output's own taps
   are zero. `row` holds 3 numbers a pixel from pixel `from` on and is readable for some pixels beyond its end. */
static inline __attribute__((always_inline)) void across_by(int taps, uint8_t *out, const int16_t *row,
                                                            const Axis *axis, int from, int outputs,
                                                            const Format *format) {
    const int bits = PIXEL_BITS + WEIGHT_BITS;
    for (int x = 0; x < outputs; x++) {
        const int16_t *pixel = row + 3 * (axis->first[x] - from), *weights = axis->weights + (int64_t)x * axis->widest;
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

typedef struct {
    struct jpeg_error_mgr errors; /* first: libjpeg hands its address back */
    jmp_buf escape;
    struct jpeg_decompress_struct jpeg;
    char *message;
    Memory arrays, part; /* of an image; the JPEG of what its crop needs */
} Decoder;

typedef struct {
    const uint8_t *data;
    int64_t size, height, width;
    int is_jpeg;
} Stored;

static void fail(Decoder *decoder, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(decoder->message, MESSAGE, format, values);
    va_end(values);
    longjmp(decoder->escape, 1);
}

static void on_error(j_common_ptr jpeg) {
    char text[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, text);
    fail((Decoder *)jpeg->err, "%s", text);
}

/* Warnings pass, as they do in PIL, but for the one that PIL takes for an error too. */
static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0 && jpeg->err->msg_code == JWRN_JPEG_EOF) on_error(jpeg);
}

/* Pieces of the decoder's memory; `at` counts bytes, in steps that suit every type. */
static void *piece(uint8_t *memory, size_t *at, size_t bytes) {
    void *here = memory ? memory + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return here;
}

typedef struct {
    Axis axes[2];  /* down, across */
    uint8_t *ring; /* decoded rows, row y at y % ring_rows */
    int16_t *sum;
} Arrays;

static size_t lay_out(uint8_t *memory, Arrays *arrays, int outputs, size_t row_bytes, int ring_rows) {
    size_t at = 0;
    for (Axis *axis = arrays->axes; axis < arrays->axes + 2; axis++) {
        axis->first = piece(memory, &at, sizeof(int) * outputs);
        axis->taps = piece(memory, &at, sizeof(int) * outputs);
        axis->weights = piece(memory, &at, sizeof(int16_t) * outputs * axis->widest);
    }
    arrays->ring = piece(memory, &at, row_bytes * ring_rows);
    arrays->sum = piece(memory, &at, sizeof(int16_t) * (row_bytes + 3 * arrays->axes[1].widest + 1));
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

/* Begins to decode what a region needs, all or a part of the image, whose place it returns. */
static Region start_jpeg(Decoder *decoder, const Stored *stored, const Region *wanted, int shrink) {
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    Region part, whole = {0, 0, (int)stored->height, (int)stored->width};
    uint8_t *room = at_least(decoder, &decoder->part, (size_t)stored->size);
    int64_t size = part_of(stored->data, stored->size, &whole, wanted, &part, room);
    if (!size) part = whole;
    jpeg_mem_src(jpeg, size ? room : stored->data, (unsigned long)(size ? size : stored->size));
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_height != (JDIMENSION)part.height || jpeg->image_width != (JDIMENSION)part.width)
        fail(decoder, "%ux%u pixels, and the file's table says %ldx%ld", jpeg->image_width, jpeg->image_height,
             (long)stored->width, (long)stored->height);
    jpeg->out_color_space = JCS_RGB;
    jpeg->scale_num = 1;
    jpeg->scale_denom = (unsigned)shrink;
    jpeg_start_decompress(jpeg);
    return part;
}

/* The pixels [start, start + length) of `size`, with so many more on either side as there are. */
static void widen(int *start, int *length, int more, int64_t size) {
    int end = (int)least(size, (int64_t)*start + *length + more);
    *start = (int)most(0, *start - more);
    *length = end - *start;
}

static void crop_one(Decoder *decoder, const Stored *stored, const int64_t box[5], int side, uint8_t *out,
                     const Format *format) {
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    int shrink = 1, rows = (int)stored->height, columns = (int)stored->width;
    Region part = {0};
    if (stored->is_jpeg) {
        while (shrink < 8 && least(box[2], box[3]) >= 3 * shrink * side) shrink *= 2;
        Region wanted = {(int)box[0], (int)box[1], (int)box[2], (int)box[3]};
        widen(&wanted.top, &wanted.height, MARGIN * shrink, rows);
        widen(&wanted.left, &wanted.width, MARGIN * shrink, columns);
        part = start_jpeg(decoder, stored, &wanted, shrink);
        part.top /= shrink; /* exact: a unit of the grid is 8 pixels or a multiple */
        part.left /= shrink;
        rows = (rows + shrink - 1) / shrink;
        columns = (columns + shrink - 1) / shrink;
    } else if (stored->size != 3 * stored->height * stored->width) {
        fail(decoder, "%ld bytes are not %ldx%ld pixels", (long)stored->size, (long)stored->width, (long)stored->height);
    }
    double top = (double)box[0] / shrink, left = (double)box[1] / shrink;
    double height = (double)box[2] / shrink, width = (double)box[3] / shrink;

    /* What is read: columns [x, x + span) of the rows from y on. */
    int from = (int)left, to = (int)least(columns, (int64_t)ceil(left + width)), y = (int)top;
    JDIMENSION x = 0, span = (JDIMENSION)columns;
    if (stored->is_jpeg) {
        y = (int)most(part.top, y - MARGIN);
        x = (JDIMENSION)(most(part.left, from - MARGIN) - part.left);
        span = (JDIMENSION)(least(columns, to + MARGIN) - part.left) - x;
        if (span < jpeg->output_width) jpeg_crop_scanline(jpeg, &x, &span);
        if (y > part.top) jpeg_skip_scanlines(jpeg, (JDIMENSION)(y - part.top));
        x += (JDIMENSION)part.left;
    }

    Arrays arrays = {0};
    Axis *vertical = &arrays.axes[0], *horizontal = &arrays.axes[1];
    vertical->widest = widest_of(height / side);
    horizontal->widest = widest_of(width / side);
    int ring_rows = stored->is_jpeg ? vertical->widest : 0;
    size_t row_bytes = (size_t)span * 3, need = lay_out(NULL, &arrays, side, row_bytes, ring_rows);
    lay_out(at_least(decoder, &decoder->arrays, need), &arrays, side, row_bytes, ring_rows);
    plan(vertical, top, height, rows, side, 0);
    plan(horizontal, left, width, columns, side, (int)box[4]);

    int numbers = 3 * (to - from);
    for (int line = 0; line < side; line++) {
        const int16_t *weights = vertical->weights + (int64_t)line * vertical->widest;
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

/* --- a batch ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *file;
    int64_t count;
    const int64_t *offsets, *sizes, *heights, *widths;
    const uint8_t *is_jpeg;
    const int64_t (*boxes)[5];
    int side;
    uint8_t *out;
    Format format;
    char (*messages)[MESSAGE];
    atomic_int_least64_t next;
} Batch;

static void *work(void *argument) {
    Batch *batch = argument;
    Decoder decoder = {0};
    decoder.jpeg.err = jpeg_std_error(&decoder.errors);
    decoder.errors.error_exit = on_error;
    decoder.errors.emit_message = on_message;
    volatile int64_t current;
    jpeg_create_decompress(&decoder.jpeg);
    while ((current = atomic_fetch_add(&batch->next, 1)) < batch->count) {
        int64_t i = current;
        Stored stored = {batch->file + batch->offsets[i], batch->sizes[i], batch->heights[i], batch->widths[i],
                         batch->is_jpeg[i]};
        decoder.message = batch->messages[i];
        if (setjmp(decoder.escape) == 0)
            crop_one(&decoder, &stored, batch->boxes[i], batch->side,
                     batch->out + (size_t)i * batch->side * batch->side * 3 * batch->format.bytes, &batch->format);
        else
            jpeg_abort_decompress(&decoder.jpeg);
    }
    jpeg_destroy_decompress(&decoder.jpeg);
    free(decoder.arrays.start);
    free(decoder.part.start);
    return NULL;
}

/* Writes [count][side][side][3] numbers of `bytes` bytes (see Format); an image that cannot be decoded leaves a text in
   its message, the others "". */
void crop_batch(const uint8_t *file, int64_t count, const int64_t *offsets, const int64_t *sizes,
                const int64_t *heights, const int64_t *widths, const uint8_t *is_jpeg, const int64_t (*boxes)[5],
                int side, uint8_t *out, int bytes, const float scale[3], const float shift[3], int threads,
                char (*messages)[MESSAGE]) {
    Format format = {bytes, {scale[0], scale[1], scale[2], 0}, {shift[0], shift[1], shift[2], 0}};
    Batch batch = {file, count, offsets, sizes, heights, widths, is_jpeg, boxes, side, out, format, messages, 0};
    int helpers = (int)least(threads, count) - 1, started = 0;
    pthread_t helper[helpers > 0 ? helpers : 1];
    while (started < helpers && pthread_create(&helper[started], NULL, work, &batch) == 0) started++;
    work(&batch);
    while (started > 0) pthread_join(helper[--started], NULL);
}

#define TEXT(value) #value
#define TEXT_OF(macro) TEXT(macro)
const char *built_with(void) { return "libjpeg-turbo " TEXT_OF(LIBJPEG_TURBO_VERSION); }
