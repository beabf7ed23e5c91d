/* A target of libFuzzer: the marker writer, the search for damage and the cropper on any bytes.

   The input is a JPEG and, behind it, CONTROL bytes that choose the crop. Besides what the sanitizers find, it is an
   error if a crop depends on what its output held before, which would show a read of memory that nobody wrote, if
   restart markers change a crop, or if damage is found in a picture that gets markers or in the one with them. Large
   pictures are left out, since they only take time. */

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "restart.h"

enum { CONTROL = 8, MESSAGE_SIZE = 256, MOST_PIXELS = 1 << 17, MOST_SIDE = 64 };

void crop_batch(const uint8_t *file, int64_t file_size, int64_t count, const int64_t *offsets, const int64_t *sizes,
                const int64_t *heights, const int64_t *widths, const uint8_t *is_jpeg, const int64_t (*boxes)[5],
                int side, uint8_t *out, int bytes, const float scale[3], const float shift[3], int threads,
                char (*messages)[MESSAGE_SIZE]);
void find_damage(const uint8_t *jpeg, int64_t size, char *message);

static jmp_buf escape_from_header;

static void escape(j_common_ptr jpeg) {
    (void)jpeg;
    longjmp(escape_from_header, 1);
}

static void ignore(j_common_ptr jpeg, int level) {
    (void)jpeg;
    (void)level;
}

/* The size that the JPEG's header says, so that most inputs get past the comparison with the file's table. */
static void read_shape(const uint8_t *jpeg, size_t size, int64_t *height, int64_t *width) {
    struct jpeg_error_mgr errors;
    struct jpeg_decompress_struct reader = {.err = jpeg_std_error(&errors)};
    errors.error_exit = escape;
    errors.emit_message = ignore;
    if (setjmp(escape_from_header) == 0) {
        jpeg_create_decompress(&reader);
        jpeg_mem_src(&reader, jpeg, size);
        jpeg_read_header(&reader, TRUE);
        *height = reader.image_height;
        *width = reader.image_width;
    }
    jpeg_destroy_decompress(&reader);
}

/* Crops one picture into memory that is filled with `filling` before. Returns NULL if the picture is refused. */
static uint8_t *crop(const uint8_t *content, int64_t size, int64_t height, int64_t width, uint8_t is_jpeg,
                     const int64_t (*box)[5], int side, int bytes, int filling) {
    static const float scale[3] = {1 / 58.f, 1 / 57.f, 1 / 57.f}, shift[3] = {-2, -2, -1.8f};
    const int64_t offset = 0;
    char message[1][MESSAGE_SIZE] = {{0}};
    size_t numbers = (size_t)side * (size_t)side * 3 * (size_t)bytes;
    uint8_t *out = malloc(numbers);
    memset(out, filling, numbers);
    crop_batch(content, size, 1, &offset, &size, &height, &width, &is_jpeg, box, side, out, bytes, scale, shift, 1,
               message);
    if (!message[0][0]) return out;
    free(out);
    return NULL;
}

static void must_be_equal(uint8_t *one, uint8_t *other, int side, int bytes, const char *what) {
    if (one && (!other || memcmp(one, other, (size_t)side * (size_t)side * 3 * (size_t)bytes) != 0)) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
    free(other);
}

static void must_be_undamaged(const uint8_t *jpeg, int64_t size, const char *what) {
    char message[MESSAGE_SIZE];
    find_damage(jpeg, size, message);
    if (message[0]) {
        fprintf(stderr, "%s: %s\n", what, message);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size <= CONTROL) return 0;
    const uint8_t *control = data + size - CONTROL;
    int64_t length = (int64_t)size - CONTROL, height = 64, width = 64;
    uint8_t *jpeg = malloc((size_t)length); /* memory of its own, so that a read beyond it is an error */
    memcpy(jpeg, data, (size_t)length);
    read_shape(jpeg, (size_t)length, &height, &width);
    if (height * width > MOST_PIXELS) {
        free(jpeg);
        return 0;
    }
    int side = 1 + control[4] % MOST_SIDE, bytes = (const int[]){1, 2, 4, 1}[control[5] % 4];
    if (control[6] & 1) height += control[7] % 3 - 1; /* a table that contradicts the header */
    int64_t top = control[0] * height / 256, left = control[1] * width / 256;
    int64_t box[1][5] = {{top, left, 1 + control[2] * (height - top - 1) / 255, 1 + control[3] * (width - left - 1) / 255,
                          control[6] >> 1 & 1}};

    uint8_t *expected = crop(jpeg, length, height, width, 1, box, side, bytes, 0x00);
    must_be_equal(expected, crop(jpeg, length, height, width, 1, box, side, bytes, 0xFF), side, bytes,
                  "two crops of one picture differ");

    char damage[MESSAGE_SIZE];
    find_damage(jpeg, length, damage);
    if (!memchr(damage, 0, sizeof damage)) abort();

    int64_t capacity = length + length / 8;
    uint8_t *marked = malloc((size_t)capacity);
    int64_t written = with_restart_markers(jpeg, length, marked, capacity);
    if (written > 0) {
        uint8_t *exact = malloc((size_t)written);
        memcpy(exact, marked, (size_t)written);
        must_be_undamaged(jpeg, length, "markers are written into a damaged picture");
        must_be_undamaged(exact, written, "restart markers damage a picture");
        must_be_equal(expected, crop(exact, written, height, width, 1, box, side, bytes, 0x55), side, bytes,
                      "restart markers change a crop");
        free(exact);
    }
    free(marked);
    free(expected);

    if (length >= 3 && length <= 3 * UINT16_MAX) { /* the same bytes as a row of pixels */
        int64_t row[1][5] = {{0, left % (length / 3), 1, 1 + control[3] % (length / 3 - left % (length / 3)), 0}};
        expected = crop(jpeg, length / 3 * 3, 1, length / 3, 0, row, side, bytes, 0x00);
        must_be_equal(expected, crop(jpeg, length / 3 * 3, 1, length / 3, 0, row, side, bytes, 0xFF), side, bytes,
                      "two crops of one row of pixels differ");
        free(expected);
    }
    free(jpeg);
    return 0;
}
