/* Random crop boxes and flips of training images. They equal those of `RandomCrop.box` in
   reproduce/data/loading/decoding.py bit for bit. */

#include <math.h>
#include <stdint.h>

#include "minmax.h"

static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static const uint64_t GOLDEN = UINT64_C(0x9E3779B97F4A7C15);

static double uniform(uint64_t stream, int draw) {
    return (double)(mix(stream + GOLDEN * ((uint64_t)draw + 1)) >> 11) * 0x1p-53;
}

/* Draws the boxes of `count` images in the epoch with this key.
   limits: minimum and maximum of the crop's share of the image's area, then of its aspect ratio (width / height), then
   of the logarithm of the aspect ratio.
   boxes: output, [count][5]: top, left, height and width in pixels, and 1 if the crop is mirrored, else 0. */
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
