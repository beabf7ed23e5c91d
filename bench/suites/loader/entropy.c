/* Undoes the entropy coding of JPEGs, and nothing else: no transform, no colours, no pixels. */

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

struct failing {
    struct jpeg_error_mgr manager;
    jmp_buf away;
};

static void fail(j_common_ptr info) { longjmp(((struct failing *)info->err)->away, 1); }

static void keep_quiet(j_common_ptr info) { (void)info; }

/* Returns 1, or 0 if the file is damaged. */
int decode_coefficients(const uint8_t *content, int64_t size) {
    struct jpeg_decompress_struct info;
    struct failing failing;
    info.err = jpeg_std_error(&failing.manager);
    failing.manager.error_exit = fail;
    failing.manager.output_message = keep_quiet;
    jpeg_create_decompress(&info);
    if (setjmp(failing.away)) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    jpeg_mem_src(&info, content, size);
    jpeg_read_header(&info, TRUE);
    jpeg_read_coefficients(&info);
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return 1;
}
