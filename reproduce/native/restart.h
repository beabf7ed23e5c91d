/* JPEGs with restart markers, which allow a region to be decoded on its own; see restart.c. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

typedef struct {
    int top, left, height, width; /* in pixels of the full-size image */
} Region;

int64_t with_restart_markers(const uint8_t *jpeg, int64_t size, uint8_t *out, int64_t capacity);
int64_t extract_region(const uint8_t *jpeg, int64_t size, const Region *image, const Region *wanted,
                       Region *extracted, uint8_t *out);

/* Whether the message of a decompressor says that codes of the image are wrong or missing, so that libjpeg makes up
   pixels. Other warnings concern metadata. Before the first scan, bytes that belong to nothing do no harm. */
int warns_of_damage(j_common_ptr jpeg, int level);
