#include "files/picture_decode.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "base/memory.h"

enum { SCAN_LIMIT = 500 }; /* progressive files have about 10; with more, a small file could take forever */

struct work {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_source_mgr source;
    jmp_buf landing;
    struct decoded *decoded;
    uint8_t *cmyk; /* one row */
    struct error error;
};

static _Noreturn void fail(struct work *w, struct error e)
{
    w->error = e;
    longjmp(w->landing, 1);
}

static void on_error(j_common_ptr jpeg)
{
    char text[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, text);
    struct work *w = jpeg->client_data;
    if (jpeg->err->msg_code == JERR_OUT_OF_MEMORY)
        fail(w, error_memory("a JPEG decoder"));
    fail(w, error_input("damaged JPEG: %s", text));
}

/* Level -1 is a warning: libjpeg continues with a guess, and so does Pillow. */
static void on_message(j_common_ptr jpeg, int level)
{
    (void)jpeg;
    (void)level;
}

static void on_progress(j_common_ptr jpeg)
{
    struct work *w = jpeg->client_data;
    if (w->jpeg.input_scan_number > SCAN_LIMIT)
        fail(w, error_input("JPEG of more than %d scans", SCAN_LIMIT));
}

/* -------------------------------------------------------------------------------- the bytes
 *
 * As Pillow hands them to libjpeg: there are no more than these. So libjpeg gives each row that they suffice for, and
 * none that would be a guess; an end marker that is missing is not missed, unless libjpeg looks for further scans. */

static void no_work(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean no_more_bytes(j_decompress_ptr jpeg)
{
    (void)jpeg;
    return FALSE;
}

static void skip_bytes(j_decompress_ptr jpeg, long count)
{
    struct jpeg_source_mgr *source = jpeg->src;
    size_t skipped = count < 0 ? 0 : (size_t)count < source->bytes_in_buffer ? (size_t)count : source->bytes_in_buffer;
    source->next_input_byte += skipped;
    source->bytes_in_buffer -= skipped;
}

static void set_source(struct work *w, const uint8_t *bytes, int64_t size)
{
    w->source = (struct jpeg_source_mgr){bytes,      (size_t)size,           no_work, no_more_bytes,
                                         skip_bytes, jpeg_resync_to_restart, no_work};
    w->jpeg.src = &w->source;
}

/* -------------------------------------------------------------------------------- orientation */

/* The data after `prefix` in the first APP1 marker that begins with it, or NULL. */
static const uint8_t *app1(const struct work *w, const char *prefix, size_t length, int64_t *size)
{
    for (jpeg_saved_marker_ptr m = w->jpeg.marker_list; m; m = m->next) {
        if (m->data_length < length || memcmp(m->data, prefix, length) != 0)
            continue;
        *size = (int64_t)(m->data_length - length);
        return m->data + length;
    }
    return NULL;
}

static void read_orientation(struct work *w)
{
    int64_t size;
    const uint8_t *exif = app1(w, "Exif\0\0", 6, &size);
    int found = exif ? exif_orientation(exif, size) : 0;
    const uint8_t *xmp = found ? NULL : app1(w, "http://ns.adobe.com/xap/1.0/", 29, &size);
    w->decoded->orientation = xmp ? xmp_orientation(xmp, size) : found;
}

/* -------------------------------------------------------------------------------- pixels */

static uint8_t clip(int value)
{
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* a * b / 255, rounded like Pillow's MULDIV255. */
static int multiply_255(int a, int b)
{
    int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* CMYK as Adobe stores it, inverted: what black and ink leave of white. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int64_t width)
{
    for (int64_t x = 0; x < width; x++, rgb += 3, cmyk += 4)
        for (int c = 0; c < 3; c++)
            rgb[c] = clip(cmyk[3] - multiply_255(255 - cmyk[c], cmyk[3]));
}

static void gray_to_rgb(uint8_t *row, int64_t width)
{
    for (int64_t x = width - 1; x >= 0; x--)
        row[3 * x + 1] = row[3 * x + 2] = row[3 * x] = row[x];
}

static J_COLOR_SPACE form_of(struct work *w)
{
    switch (w->jpeg.num_components) {
    case 1:
        return JCS_GRAYSCALE;
    case 3:
        return JCS_RGB;
    case 4:
        return JCS_CMYK;
    default:
        fail(w, error_input("JPEG of %d layers, expected 1, 3 or 4", w->jpeg.num_components));
    }
}

/* Whether so few bytes can hold the blocks of 8 x 8 that the header claims: before memory is allocated for them. A block
 * takes at least one bit for its mean and, unless scans of their own bring them, one for its frequencies. Arithmetic
 * coding has no such limit. */
static bool fits(const struct work *w, int64_t size)
{
    int64_t blocks = 0;
    for (int c = 0; c < w->jpeg.num_components; c++)
        blocks += (int64_t)w->jpeg.comp_info[c].width_in_blocks * w->jpeg.comp_info[c].height_in_blocks;
    return w->jpeg.arith_code || blocks * (w->jpeg.progressive_mode ? 1 : 2) <= 8 * size;
}

static _Noreturn void fail_short(struct work *w)
{
    fail(w, error_input("JPEG is cut short"));
}

static void read_rows(struct work *w)
{
    int64_t width = w->decoded->width;
    while (w->jpeg.output_scanline < w->jpeg.output_height) {
        uint8_t *row = w->decoded->pixels + 3 * width * w->jpeg.output_scanline;
        uint8_t *into = w->cmyk ? w->cmyk : row;
        if (jpeg_read_scanlines(&w->jpeg, &into, 1) != 1)
            fail_short(w);
        if (w->cmyk)
            cmyk_to_rgb(row, w->cmyk, width);
        else if (w->jpeg.out_color_space == JCS_GRAYSCALE)
            gray_to_rgb(row, width);
    }
}

static void read_head(struct work *w, const uint8_t *bytes, int64_t size)
{
    jpeg_create_decompress(&w->jpeg);
    w->jpeg.client_data = w;
    w->progress.progress_monitor = on_progress;
    w->jpeg.progress = &w->progress;
    jpeg_save_markers(&w->jpeg, JPEG_APP0 + 1, 0xffff);
    set_source(w, bytes, size);
    if (jpeg_read_header(&w->jpeg, TRUE) != JPEG_HEADER_OK)
        fail_short(w);
    read_orientation(w);
}

static void read_all(struct work *w, const uint8_t *bytes, int64_t size)
{
    read_head(w, bytes, size);
    int64_t width = w->jpeg.image_width, height = w->jpeg.image_height;
    if (width * height > PICTURE_PIXELS)
        fail(w, error_input("%lld x %lld pixels are too many", (long long)width, (long long)height));
    w->jpeg.out_color_space = form_of(w);
    if (!fits(w, size) || !jpeg_start_decompress(&w->jpeg))
        fail_short(w);
    if (decoded_new(w->decoded, width, height, 3).code != ERROR_NONE ||
        (w->jpeg.out_color_space == JCS_CMYK && !(w->cmyk = memory_alloc(width, 4))))
        fail(w, error_memory("a picture"));
    read_rows(w);
    jpeg_finish_decompress(&w->jpeg);
}

static void guarded(struct work *w, const uint8_t *bytes, int64_t size)
{
    if (setjmp(w->landing) == 0)
        read_all(w, bytes, size);
}

struct error jpeg_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    struct work *w = memory_alloc(1, sizeof *w);
    if (!w)
        return error_memory("a JPEG decoder");
    w->decoded = d;
    w->jpeg.err = jpeg_std_error(&w->errors);
    w->jpeg.client_data = w;
    w->errors.error_exit = on_error;
    w->errors.emit_message = on_message;
    guarded(w, bytes, size);
    jpeg_destroy_decompress(&w->jpeg);
    memory_free(w->cmyk);
    struct error e = w->error;
    memory_free(w);
    return e;
}
