/* JPEGs of which a part can be decoded alone. */

#include <stdint.h>

typedef struct {
    int top, left, height, width; /* in pixels of the JPEG */
} Region;

int64_t part_of(const uint8_t *jpeg, int64_t size, const Region *whole, const Region *wanted, Region *part,
                uint8_t *out);
