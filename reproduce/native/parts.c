/* JPEGs of which a part can be decoded alone: a restart marker every few units of the grid of 8x8 or 16x16 pixels.

   Without markers a decoder has to read all the Huffman codes before a crop, above it and beside it, which is most of
   its work. A marker aligns the codes to a byte and forgets what was before, so the units of a crop make a JPEG by
   themselves. Markers cost about two per cent of a photograph; Huffman tables made for it save as much. */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "parts.h"

static int up(int value, int step) { return (value + step - 1) / step; }

/* --- writing ------------------------------------------------------------------------------------------------------- */

typedef struct {
    struct jpeg_error_mgr errors; /* first: libjpeg hands its address back */
    jmp_buf escape;
} Watch;

static void give_up(j_common_ptr jpeg) { longjmp(((Watch *)jpeg->err)->escape, 1); }

static void count_warnings(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

/* Whether a progressive JPEG holds all of its coefficients: of one that does not, decoders smooth what they show. */
static int is_whole(const struct jpeg_decompress_struct *jpeg) {
    if (!jpeg->progressive_mode) return 1;
    for (int component = 0; component < jpeg->num_components; component++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (jpeg->coef_bits[component][k] != 0) return 0;
    return 1;
}

enum { GRAIN = 32 }; /* pixels from a marker to the next, at most: finer ones bring little and cost bytes */

/* Units from a marker to the next: as many in each row, so that a column of them can be taken. */
static unsigned interval_of(const struct jpeg_decompress_struct *jpeg) {
    int unit = DCTSIZE * (jpeg->num_components > 1 ? jpeg->max_h_samp_factor : 1);
    int columns = up((int)jpeg->image_width, unit), interval = GRAIN / unit;
    while (interval > 1 && columns % interval) interval--;
    return interval > 1 ? (unsigned)interval : 1;
}

/* The same coefficients, so the same pixels, with restart markers: writes up to `room` bytes to `out` and returns how
   many; 0 if they do not fit, or the JPEG is damaged in the least. Metadata (EXIF, ICC) is left out. */
int64_t with_restart_markers(const uint8_t *jpeg, int64_t size, uint8_t *out, int64_t room) {
    struct jpeg_decompress_struct from = {0};
    struct jpeg_compress_struct to = {0};
    Watch watch;
    unsigned char *written = out;
    unsigned long bytes = (unsigned long)room;
    volatile int64_t result = 0;
    from.err = to.err = jpeg_std_error(&watch.errors);
    watch.errors.error_exit = give_up;
    watch.errors.emit_message = count_warnings;
    if (setjmp(watch.escape) == 0) {
        jpeg_create_decompress(&from);
        jpeg_create_compress(&to);
        jpeg_mem_src(&from, jpeg, (unsigned long)size);
        jpeg_read_header(&from, TRUE);
        jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&from);
        if (watch.errors.num_warnings > 0 || !is_whole(&from)) give_up((j_common_ptr)&from);
        jpeg_copy_critical_parameters(&from, &to);
        to.optimize_coding = TRUE;
        to.restart_interval = interval_of(&from);
        jpeg_mem_dest(&to, &written, &bytes);
        jpeg_write_coefficients(&to, coefficients);
        jpeg_finish_compress(&to);
        if (written == out) result = (int64_t)bytes;
    }
    if (written != out) free(written); /* libjpeg's own, larger memory */
    jpeg_destroy_compress(&to);
    jpeg_destroy_decompress(&from);
    return result;
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

enum { FRAME = 0xC0, EXTENDED_FRAME = 0xC1, RESTART = 0xD0, END = 0xD9, SCAN = 0xDA, RESTART_INTERVAL = 0xDD };

static int number_at(const uint8_t *at) { return at[0] << 8 | at[1]; }

static void put_number(uint8_t *at, int number) {
    at[0] = (uint8_t)(number >> 8);
    at[1] = (uint8_t)number;
}

/* What stands before the codes of a JPEG: ITU T.81, annex B. */
typedef struct {
    const uint8_t *frame, *codes;
    int height, width, grain_height, grain_width; /* in pixels; a grain is what lies between two markers */
} Header;

/* 0 if there is anything but one sequential scan with as many restart markers in every row of units. */
static int read_header(const uint8_t *jpeg, const uint8_t *end, Header *header) {
    int interval = 0;
    const uint8_t *frame = NULL, *at = jpeg + 2, *next;
    for (;; at = next) {
        if (end - at < 4 || at[0] != 0xFF) return 0;
        next = at + 2 + number_at(at + 2);
        if (next < at + 4 || end - next < 4) return 0;
        if (at[1] == RESTART_INTERVAL && next - at >= 6) interval = number_at(at + 4);
        if ((at[1] == FRAME || at[1] == EXTENDED_FRAME) && next - at >= 10 && next - at >= 10 + 3 * at[9]) frame = at;
        if (at[1] == SCAN) break;
    }
    if (!frame || !interval || at[4] != frame[9]) return 0;
    int across = 1, down = 1; /* blocks of a unit; of a single component it is one block */
    for (int component = 0; frame[9] > 1 && component < frame[9]; component++) {
        int sampling = frame[11 + 3 * component];
        if (across < sampling >> 4) across = sampling >> 4;
        if (down < (sampling & 15)) down = sampling & 15;
    }
    int height = number_at(frame + 5), width = number_at(frame + 7);
    *header = (Header){frame, next, height, width, DCTSIZE * down, DCTSIZE * across * interval};
    return up(width, DCTSIZE * across) % interval == 0;
}

static int within(int value, int limit) { return value < limit ? value : limit; }

/* The next marker among the codes, where a byte 0xFF that is none is followed by 0; NULL at the end of the data. */
static const uint8_t *next_marker(const uint8_t *at, const uint8_t *end) {
    while ((at = memchr(at, 0xFF, (size_t)(end - at))) && end - at >= 2) {
        if (at[1] != 0) return at;
        at += 2;
    }
    return NULL;
}

/* A JPEG of the grains that hold `wanted`, which lies within the `whole` image: writes it to `out`, as much room as
   the whole takes, tells what `part` of the image it is and returns its size. 0 if the JPEG has not the markers for
   it, or is of another size than the whole. */
int64_t part_of(const uint8_t *jpeg, int64_t size, const Region *whole, const Region *wanted, Region *part,
                uint8_t *out) {
    Header header;
    const uint8_t *end = jpeg + size;
    if (!read_header(jpeg, end, &header) || header.height != whole->height || header.width != whole->width) return 0;
    int grain_height = header.grain_height, grain_width = header.grain_width, columns = up(header.width, grain_width);
    int row = wanted->top / grain_height, row_end = up(wanted->top + wanted->height, grain_height);
    int column = wanted->left / grain_width, column_end = up(wanted->left + wanted->width, grain_width);
    *part = (Region){row * grain_height, column * grain_width, 0, 0};
    part->height = within(row_end * grain_height, header.height) - part->top;
    part->width = within(column_end * grain_width, header.width) - part->left;

    ptrdiff_t frame = header.frame - jpeg, codes = header.codes - jpeg;
    memcpy(out, jpeg, (size_t)codes);
    put_number(out + frame + 5, part->height);
    put_number(out + frame + 7, part->width);
    const uint8_t *from = header.codes;
    uint8_t *to = out + codes;
    int number = 0, last = (row_end - 1) * columns + column_end - 1, kept = 0;
    for (int y = 0; y < row_end; y++) {
        for (int x = 0; x < columns && number <= last; x++, number++) {
            const uint8_t *marker = next_marker(from, end);
            if (!marker || (marker[1] != RESTART + number % 8 && (number < last || marker[1] != END))) return 0;
            if (y >= row && x >= column && x < column_end) {
                memcpy(to, from, (size_t)(marker - from));
                to += marker - from;
                *to++ = 0xFF;
                *to++ = number == last ? END : RESTART + kept++ % 8;
            }
            from = marker + 2;
        }
    }
    return to - out;
}
