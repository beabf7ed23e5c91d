/* Restart markers: writing them into a JPEG, and extracting a region of a JPEG that has them.

   A JPEG is a sequence of minimum coded units (MCUs) of 8x8 to 32x32 pixels in one stream of Huffman codes. Without
   restart markers, a decoder has to read every code that precedes a crop, which is most of its work. A restart marker
   aligns the codes to a byte and resets the decoder's predictions, so that the MCUs of a crop form a JPEG of their own.
   Markers make the JPEG of a photograph about 2 % larger; Huffman tables that are optimised for it save as much.

   References to sections are to ITU T.81. */

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "restart.h"

#include <jerror.h>

int warns_of_damage(j_common_ptr jpeg, int level) {
    if (level >= 0) return 0;
    switch (jpeg->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA: return ((j_decompress_ptr)jpeg)->input_scan_number > 0;
    case JWRN_ARITH_BAD_CODE: case JWRN_BOGUS_PROGRESSION: case JWRN_HIT_MARKER: case JWRN_HUFF_BAD_CODE:
    case JWRN_JPEG_EOF: case JWRN_MUST_RESYNC: case JWRN_NOT_SEQUENTIAL: return 1;
    default: return 0;
    }
}

static int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

/* --- checking ------------------------------------------------------------------------------------------------------ */

typedef struct {
    struct jpeg_error_mgr errors; /* must be first: libjpeg passes its address to the callbacks */
    jmp_buf escape;
    struct jpeg_decompress_struct jpeg;
    char *message; /* of JMSG_LENGTH_MAX bytes */
} Checker;

static void report_error(j_common_ptr jpeg) {
    Checker *checker = (Checker *)jpeg->err;
    jpeg->err->format_message(jpeg, checker->message);
    longjmp(checker->escape, 1);
}

static void report_damage(j_common_ptr jpeg, int level) {
    if (warns_of_damage(jpeg, level)) report_error(jpeg);
}

/* The function that calls setjmp: it changes no local variable, for longjmp would leave its value undefined. */
static void read_all_codes(Checker *checker, const uint8_t *jpeg, int64_t size) {
    if (setjmp(checker->escape) != 0) return;
    jpeg_create_decompress(&checker->jpeg);
    jpeg_mem_src(&checker->jpeg, jpeg, (unsigned long)size);
    jpeg_read_header(&checker->jpeg, TRUE);
    jpeg_read_coefficients(&checker->jpeg);
    jpeg_finish_decompress(&checker->jpeg);
}

/* Reads all codes of a JPEG. Writes what is wrong with them to `message`, which must hold JMSG_LENGTH_MAX (200) bytes,
   or the empty string. */
void find_damage(const uint8_t *jpeg, int64_t size, char *message) {
    Checker checker = {.message = message};
    message[0] = 0;
    checker.jpeg.err = jpeg_std_error(&checker.errors);
    checker.errors.error_exit = report_error;
    checker.errors.emit_message = report_damage;
    read_all_codes(&checker, jpeg, size);
    jpeg_destroy_decompress(&checker.jpeg);
}

/* --- writing ------------------------------------------------------------------------------------------------------- */

typedef struct {
    struct jpeg_error_mgr errors; /* must be first: libjpeg passes its address to the callbacks */
    jmp_buf escape;
    struct jpeg_destination_mgr destination;
    struct jpeg_decompress_struct reader;
    struct jpeg_compress_struct writer;
} Transcoder;

static void escape(j_common_ptr jpeg) { longjmp(((Transcoder *)jpeg->err)->escape, 1); }

static void count_warnings(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

static void start_output(j_compress_ptr jpeg) { (void)jpeg; }
static void finish_output(j_compress_ptr jpeg) { (void)jpeg; }

static boolean output_is_full(j_compress_ptr jpeg) {
    escape((j_common_ptr)jpeg);
    return FALSE; /* not reached */
}

/* Whether every coefficient of a progressive JPEG is known to its last bit. Decoders smooth the image otherwise. */
static int is_complete(const struct jpeg_decompress_struct *jpeg) {
    if (!jpeg->progressive_mode) return 1;
    for (int component = 0; component < jpeg->num_components; component++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (jpeg->coef_bits[component][k] != 0) return 0;
    return 1;
}

enum { SEGMENT = 32 }; /* maximum number of pixels between two markers; shorter segments gain little and cost bytes */

/* MCUs between two markers: a divisor of the MCUs in a row, so that segments form columns. */
static unsigned restart_interval(const struct jpeg_decompress_struct *jpeg) {
    int mcu = DCTSIZE * (jpeg->num_components > 1 ? jpeg->max_h_samp_factor : 1);
    int columns = divide_up((int)jpeg->image_width, mcu), interval = SEGMENT / mcu;
    while (interval > 1 && columns % interval) interval--;
    return interval > 1 ? (unsigned)interval : 1;
}

/* The function that calls setjmp: it changes no local variable, for longjmp would leave its value undefined. */
static int64_t transcode(Transcoder *transcoder, const uint8_t *jpeg, int64_t size, int64_t capacity) {
    struct jpeg_decompress_struct *reader = &transcoder->reader;
    struct jpeg_compress_struct *writer = &transcoder->writer;
    if (setjmp(transcoder->escape) != 0) return 0;
    jpeg_create_decompress(reader);
    jpeg_create_compress(writer);
    jpeg_mem_src(reader, jpeg, (unsigned long)size);
    jpeg_read_header(reader, TRUE);
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(reader);
    if (transcoder->errors.num_warnings > 0 || !is_complete(reader)) return 0;
    jpeg_copy_critical_parameters(reader, writer);
    writer->optimize_coding = TRUE;
    writer->restart_interval = restart_interval(reader);
    writer->dest = &transcoder->destination;
    jpeg_write_coefficients(writer, coefficients);
    jpeg_finish_compress(writer);
    return capacity - (int64_t)transcoder->destination.free_in_buffer;
}

/* Writes a JPEG with the same coefficients, and hence the same pixels, and with restart markers to `out`. Metadata such
   as EXIF and ICC profiles are left out. Returns its size in bytes, or 0 if it exceeds `capacity`, if libjpeg finds
   anything wrong with the input, or if a progressive input is incomplete. */
int64_t with_restart_markers(const uint8_t *jpeg, int64_t size, uint8_t *out, int64_t capacity) {
    if (size <= 0 || capacity <= 0) return 0;
    Transcoder transcoder = {0};
    transcoder.reader.err = transcoder.writer.err = jpeg_std_error(&transcoder.errors);
    transcoder.errors.error_exit = escape;
    transcoder.errors.emit_message = count_warnings;
    transcoder.destination = (struct jpeg_destination_mgr){
        .next_output_byte = out,
        .free_in_buffer = (size_t)capacity,
        .init_destination = start_output,
        .empty_output_buffer = output_is_full,
        .term_destination = finish_output,
    };
    int64_t written = transcode(&transcoder, jpeg, size, capacity);
    jpeg_destroy_compress(&transcoder.writer);
    jpeg_destroy_decompress(&transcoder.reader);
    return written;
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

/* The second bytes of markers; the first is always 0xFF (annex B.1.1.3). */
enum { FRAME = 0xC0, EXTENDED_FRAME = 0xC1, RESTART = 0xD0, END = 0xD9, SCAN = 0xDA, RESTART_INTERVAL = 0xDD };

static int read_number(const uint8_t *at) { return at[0] << 8 | at[1]; }

static void write_number(uint8_t *at, int number) {
    at[0] = (uint8_t)(number >> 8);
    at[1] = (uint8_t)number;
}

typedef struct {
    const uint8_t *frame, *codes;               /* the frame header; the first Huffman code */
    int height, width;                          /* of the image, in pixels */
    int segment_height, segment_width, columns; /* of what lies between two markers, in pixels; segments in a row */
} Header;

/* Returns 0 unless the JPEG has one sequential scan whose restart interval divides the MCUs of a row. */
static int read_header(const uint8_t *jpeg, const uint8_t *end, Header *header) {
    int interval = 0;
    const uint8_t *frame = NULL, *at, *next;
    if (end - jpeg < 2) return 0;
    for (at = jpeg + 2;; at = next) {
        if (end - at < 4 || at[0] != 0xFF) return 0;
        int length = 2 + read_number(at + 2);
        if (length < 4 || end - at < length + 4) return 0;
        next = at + length;
        if (at[1] == RESTART_INTERVAL && length >= 6) interval = read_number(at + 4);
        if ((at[1] == FRAME || at[1] == EXTENDED_FRAME) && length >= 10 && length >= 10 + 3 * at[9]) frame = at;
        if (at[1] == SCAN) break;
    }
    if (!frame || !interval || at[4] != frame[9]) return 0;
    int across = 1, down = 1; /* blocks of 8x8 pixels in an MCU, which is one block if there is a single component */
    for (int component = 0; frame[9] > 1 && component < frame[9]; component++) {
        int sampling = frame[11 + 3 * component];
        if (across < sampling >> 4) across = sampling >> 4;
        if (down < (sampling & 15)) down = sampling & 15;
    }
    int height = read_number(frame + 5), width = read_number(frame + 7), segment_width = DCTSIZE * across * interval;
    *header = (Header){frame, next, height, width, DCTSIZE * down, segment_width, divide_up(width, segment_width)};
    return divide_up(width, DCTSIZE * across) % interval == 0;
}

static int smaller(int a, int b) { return a < b ? a : b; }

/* The next marker among the codes, in which a byte 0xFF is followed by 0; NULL if there is none. */
static const uint8_t *next_marker(const uint8_t *at, const uint8_t *end) {
    while ((at = memchr(at, 0xFF, (size_t)(end - at))) && end - at >= 2) {
        if (at[1] != 0) return at;
        at += 2;
    }
    return NULL;
}

/* Writes a JPEG of the segments that contain the region `wanted`, which must lie within the `image`, to `out`, which
   must hold `size` bytes. Sets `extracted` to the region that it shows and returns its size in bytes. Returns 0 if the
   JPEG lacks suitable markers or its size in pixels is not that of `image`. */
int64_t extract_region(const uint8_t *jpeg, int64_t size, const Region *image, const Region *wanted,
                       Region *extracted, uint8_t *out) {
    Header header;
    const uint8_t *end = jpeg + size;
    if (!read_header(jpeg, end, &header) || header.height != image->height || header.width != image->width) return 0;
    int height = header.segment_height, width = header.segment_width, columns = header.columns;
    int row = wanted->top / height, row_end = divide_up(wanted->top + wanted->height, height);
    int column = wanted->left / width, column_end = divide_up(wanted->left + wanted->width, width);
    *extracted = (Region){row * height, column * width, 0, 0};
    extracted->height = smaller(row_end * height, header.height) - extracted->top;
    extracted->width = smaller(column_end * width, header.width) - extracted->left;

    ptrdiff_t frame = header.frame - jpeg, codes = header.codes - jpeg;
    memcpy(out, jpeg, (size_t)codes);
    write_number(out + frame + 5, extracted->height);
    write_number(out + frame + 7, extracted->width);
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
