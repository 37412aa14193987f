#include "files/picture.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>
#include <jerror.h>

#include "base/memory.h"
#include "files/file.h"

/* What libjpeg allocates hangs on this, so that an error, which leaves by longjmp, frees the same things as success. */
struct work {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf landing;
    const struct picture *picture;
    unsigned char *bytes; /* by malloc */
    unsigned long size;
    struct error error;
};

static void on_error(j_common_ptr jpeg)
{
    char text[JMSG_LENGTH_MAX];
    struct work *w = jpeg->client_data;
    jpeg->err->format_message(jpeg, text);
    w->error = jpeg->err->msg_code == JERR_OUT_OF_MEMORY ? error_memory("a JPEG encoder")
                                                         : error_failed("cannot write a JPEG: %s", text);
    longjmp(w->landing, 1);
}

static void write_all(struct work *w, int quality)
{
    jpeg_create_compress(&w->jpeg);
    w->jpeg.client_data = w;
    jpeg_mem_dest(&w->jpeg, &w->bytes, &w->size);
    w->jpeg.image_width = (JDIMENSION)w->picture->width;
    w->jpeg.image_height = (JDIMENSION)w->picture->height;
    w->jpeg.input_components = 3;
    w->jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&w->jpeg);
    jpeg_set_quality(&w->jpeg, quality, TRUE);
    w->jpeg.optimize_coding = TRUE;
    jpeg_start_compress(&w->jpeg, TRUE);
    while (w->jpeg.next_scanline < w->jpeg.image_height) {
        JSAMPROW row = w->picture->rgb + 3 * w->picture->width * w->jpeg.next_scanline;
        jpeg_write_scanlines(&w->jpeg, &row, 1);
    }
    jpeg_finish_compress(&w->jpeg);
}

static void guarded(struct work *w, int quality)
{
    if (setjmp(w->landing) == 0)
        write_all(w, quality);
}

struct error picture_write_jpeg(const struct picture *picture, const char *path, int quality)
{
    struct work *w = memory_alloc(1, sizeof *w);
    if (!w)
        return error_memory("a JPEG encoder");
    w->picture = picture;
    w->jpeg.err = jpeg_std_error(&w->errors);
    w->jpeg.client_data = w;
    w->errors.error_exit = on_error;
    guarded(w, quality);
    struct error e = error_in(w->error, "%s", path);
    if (e.code == ERROR_NONE)
        e = file_write_whole(path, w->bytes, (int64_t)w->size);
    jpeg_destroy_compress(&w->jpeg);
    free(w->bytes);
    memory_free(w);
    return e;
}
