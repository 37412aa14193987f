#include "files/picture_decode.h"

#include <png.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"

/* One file being read or written; libpng's complaint is in `error`. */
struct work {
    png_structp png;
    png_infop info;
    png_bytepp rows;
    struct decoded *decoded;       /* reading */
    const uint8_t *bytes;          /* reading */
    struct png_lines lines;        /* reading: what the pixels take */
    int64_t cut;                   /* reading: see png_cut_chunk */
    const struct picture *picture; /* writing */
    uint8_t *out;                  /* writing */
    const char *text;              /* writing: the chunk `parameters`, or NULL */
    char *latin;                   /* the same in Latin-1, or NULL */
    int64_t at, size;              /* bytes done, and bytes present (or, when writing, room) */
    struct error error;
};

static void on_error(png_structp png, png_const_charp text)
{
    struct work *w = png_get_error_ptr(png);
    if (w->error.code == ERROR_NONE)
        w->error = error_input("damaged PNG: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static _Noreturn void fail(struct work *w, struct error e)
{
    w->error = e;
    png_longjmp(w->png, 1);
}

/* Pillow reads a file that was cut off if the pixels are all there. libpng asks for more bytes than there are when it has
 * given out all rows that these hold, so then it is told either that this is the end, or that rows are missing. */
static _Noreturn void fail_short(struct work *w)
{
    bool memory = false;
    if (w->lines.passes > 0 && png_has_lines(w->bytes, w->size, &w->lines, &memory))
        fail(w, ok());
    fail(w, memory ? error_memory("a PNG decoder") : error_input("PNG is cut short"));
}

static void read_bytes(png_structp png, png_bytep out, size_t count)
{
    struct work *w = png_get_io_ptr(png);
    if ((int64_t)count > w->size - w->at)
        fail_short(w);
    memcpy(out, w->bytes + w->at, count);
    if (w->at == w->cut && count == 8) // a chunk's head: its pixels are as many as there are
        png_save_uint_32(out, (png_uint_32)(w->size - w->at - 8));
    w->at += (int64_t)count;
}

/* Only chunks that affect pixels are read: color profiles, texts and times are skipped, and so are errors in them. */
static void ignore_chunks(png_structp png)
{
    static const png_byte names[] =
        "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0sTER\0"
        "tEXt\0tIME\0zTXt";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
}

/* To 8 bits by the high byte, as Pillow does, but for gray of 16 bits without alpha: there its convert("RGB") makes all
 * values over 255 white (mode I;16), which nobody wants to learn. */
static void choose_form(struct work *w)
{
    png_set_strip_16(w->png);
    png_set_expand(w->png);
    png_set_gray_to_rgb(w->png);
}

static void measure_lines(struct work *w, int64_t width, int64_t height)
{
    bool interlaced = png_get_interlace_type(w->png, w->info) == PNG_INTERLACE_ADAM7;
    int64_t bits = (int64_t)png_get_channels(w->png, w->info) * png_get_bit_depth(w->png, w->info);
    w->lines = (struct png_lines){interlaced ? 7 : 1, {height}, {(width * bits + 7) / 8}};
    for (int pass = 0; pass < 7 && interlaced; pass++) {
        w->lines.rows[pass] = PNG_PASS_ROWS((png_uint_32)height, pass);
        w->lines.bytes[pass] = (PNG_PASS_COLS((png_uint_32)width, pass) * bits + 7) / 8;
    }
}

static void read_all(struct work *w)
{
    ignore_chunks(w->png);
    png_set_user_limits(w->png, PICTURE_PIXELS, PICTURE_PIXELS);
    png_read_info(w->png, w->info);
    int64_t width = png_get_image_width(w->png, w->info), height = png_get_image_height(w->png, w->info);
    if (width * height > PICTURE_PIXELS)
        fail(w, error_input("%lld x %lld pixels are too many", (long long)width, (long long)height));
    /* deflate packs at most 1032 to 1, so a small file that claims to be huge is refused before memory is allocated */
    if ((int64_t)png_get_rowbytes(w->png, w->info) * height > 1040 * w->size)
        fail(w, error_input("PNG is cut short"));
    measure_lines(w, width, height);
    choose_form(w);
    png_set_interlace_handling(w->png);
    png_read_update_info(w->png, w->info);
    int channels = png_get_channels(w->png, w->info);
    if ((channels != 3 && channels != 4) || (int64_t)png_get_rowbytes(w->png, w->info) != channels * width)
        fail(w, error_input("PNG of an unknown form"));
    struct error e = decoded_new(w->decoded, width, height, channels);
    if (e.code != ERROR_NONE || !(w->rows = memory_alloc(height, sizeof *w->rows)))
        fail(w, error_memory("a picture"));
    for (int64_t y = 0; y < height; y++)
        w->rows[y] = w->decoded->pixels + channels * width * y;
    png_read_image(w->png, w->rows);
}

/* Runs body; an error of libpng jumps back here. */
static void guarded(struct work *w, void (*body)(struct work *))
{
    if (setjmp(png_jmpbuf(w->png)) == 0)
        body(w);
}

struct error png_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    struct work w = {.decoded = d, .bytes = bytes, .size = size, .cut = png_cut_chunk(bytes, size)};
    w.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &w, on_error, on_warning);
    w.info = w.png ? png_create_info_struct(w.png) : NULL;
    if (w.info) {
        png_set_read_fn(w.png, &w, read_bytes);
        guarded(&w, read_all);
    } else {
        w.error = error_memory("a PNG decoder");
    }
    png_destroy_read_struct(&w.png, &w.info, NULL);
    memory_free(w.rows);
    TRY(w.error);
    return png_read_others(d, bytes, size);
}

static void write_bytes(png_structp png, png_bytep bytes, size_t count)
{
    struct work *w = png_get_io_ptr(png);
    if ((int64_t)count > w->size - w->at) {
        int64_t room = 2 * (w->at + (int64_t)count);
        uint8_t *wider = memory_alloc(room, 1);
        if (!wider)
            fail(w, error_memory("a PNG"));
        if (w->at)
            memcpy(wider, w->out, (size_t)w->at);
        memory_free(w->out);
        w->out = wider;
        w->size = room;
    }
    memcpy(w->out + w->at, bytes, count);
    w->at += (int64_t)count;
}

/* Whether a text of UTF-8 has only characters of Latin-1, which are a byte each, or two that begin so. */
static bool is_latin(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text > 0xc3)
            return false;
    return true;
}

static void write_text(struct work *w)
{
    static char key[] = "parameters", language[] = "";
    png_text text = {.compression = PNG_ITXT_COMPRESSION_NONE, .key = key, .lang = language, .lang_key = language};
    w->latin = memory_string(w->text);
    if (!w->latin)
        fail(w, error_memory("a picture's text"));
    text.text = w->latin;
    if (is_latin(w->text)) {
        char *to = w->latin;
        for (const unsigned char *c = (const unsigned char *)w->text; *c; c++) {
            bool two = *c >= 0x80 && c[1];
            *to++ = (char)(two ? (*c & 3) << 6 | (c[1] & 0x3f) : *c);
            c += two;
        }
        *to = 0;
        text.compression = PNG_TEXT_COMPRESSION_NONE;
        text.text_length = strlen(w->latin);
    }
    png_set_text(w->png, w->info, &text, 1);
}

static void write_all(struct work *w)
{
    const struct picture *p = w->picture;
    png_set_IHDR(w->png, w->info, (png_uint_32)p->width, (png_uint_32)p->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (w->text)
        write_text(w);
    png_write_info(w->png, w->info);
    for (int64_t y = 0; y < p->height; y++)
        png_write_row(w->png, p->rgb + 3 * p->width * y);
    png_write_end(w->png, w->info);
}

static struct error encode(const struct picture *picture, const char *text, uint8_t **png, int64_t *size)
{
    struct work w = {.picture = picture, .text = text};
    w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &w, on_error, on_warning);
    w.info = w.png ? png_create_info_struct(w.png) : NULL;
    if (w.info) {
        png_set_write_fn(w.png, &w, write_bytes, NULL);
        guarded(&w, write_all);
    } else {
        w.error = error_memory("a PNG encoder");
    }
    png_destroy_write_struct(&w.png, &w.info);
    memory_free(w.latin);
    if (w.error.code != ERROR_NONE) {
        memory_free(w.out);
        return error_failed("cannot write a PNG: %s", w.error.text);
    }
    *png = w.out;
    *size = w.at;
    return ok();
}

struct error picture_encode(const struct picture *picture, uint8_t **png, int64_t *size)
{
    return encode(picture, NULL, png, size);
}

struct error picture_write(const struct picture *picture, const char *path, const char *parameters)
{
    uint8_t *png;
    int64_t size;
    TRY(error_in(encode(picture, parameters, &png, &size), "%s", path));
    struct error e = file_write_whole(path, png, size);
    memory_free(png);
    return e;
}
