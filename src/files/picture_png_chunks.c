#include "files/picture_decode.h"

#include <ctype.h>
#include <string.h>

#define ZLIB_CONST
#include <zlib.h>

#include "base/memory.h"

enum { SIGNATURE = 8, HEAD = 8, CRC = 4 };

struct chunk {
    const uint8_t *type, *data;
    int64_t length, present; /* bytes of data claimed, and those that the file has */
    int64_t next;            /* where the next one begins */
};

/* The chunk at `at`; false where no head of one is. */
static bool chunk_at(struct chunk *c, const uint8_t *bytes, int64_t size, int64_t at)
{
    if (at > size - HEAD)
        return false;
    const uint8_t *head = bytes + at;
    int64_t length = (int64_t)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3], left = size - at - HEAD;
    *c = (struct chunk){head + 4, head + HEAD, length, length < left ? length : left, at + HEAD + length + CRC};
    for (int i = 0; i < 4; i++)
        if (!isalnum(c->type[i]) && c->type[i] != '_')
            return false;
    return true;
}

static bool is(const struct chunk *c, const char *type)
{
    return memcmp(c->type, type, 4) == 0;
}

/* -------------------------------------------------------------------------------- the pixels */

struct inflating {
    z_stream z;
    const struct png_lines *lines;
    uint8_t *line;        /* room for the longest */
    int64_t pass, row;    /* which line comes next */
    int64_t line_present; /* bytes of it */
};

/* Passes of a small picture may be empty. Whether there is a next line. */
static bool seek_line(struct inflating *s)
{
    for (; s->pass < s->lines->passes; s->pass++, s->row = 0)
        if (s->row < s->lines->rows[s->pass] && s->lines->bytes[s->pass] > 0)
            return true;
    return false;
}

/* Pillow's loop (ZipDecode.c): a line at a time, as long as there is input. What zlib could give without any does not
 * count. Returns whether it may go on. */
static bool inflate_lines(struct inflating *s, const struct chunk *c)
{
    s->z.next_in = c->data;
    s->z.avail_in = (unsigned)c->present;
    while (s->z.avail_in > 0 && seek_line(s)) {
        int64_t wanted = 1 + s->lines->bytes[s->pass];
        s->z.next_out = s->line + s->line_present;
        s->z.avail_out = (unsigned)(wanted - s->line_present);
        int result = inflate(&s->z, Z_NO_FLUSH);
        s->line_present = wanted - s->z.avail_out;
        if (s->line_present == wanted) {
            s->row++;
            s->line_present = 0;
        }
        if (result != Z_OK)
            return false;
    }
    return true;
}

int64_t png_cut_chunk(const uint8_t *bytes, int64_t size)
{
    struct chunk c;
    for (int64_t at = SIGNATURE; chunk_at(&c, bytes, size, at); at = c.next)
        if (is(&c, "IDAT") && c.present < c.length)
            return at;
    return -1;
}

bool png_has_lines(const uint8_t *bytes, int64_t size, const struct png_lines *lines, bool *memory)
{
    struct inflating s = {.lines = lines};
    int64_t longest = 0;
    for (int64_t i = 0; i < lines->passes; i++)
        longest = lines->bytes[i] > longest ? lines->bytes[i] : longest;
    s.line = memory_alloc(1 + longest, 1);
    *memory = !s.line || inflateInit(&s.z) != Z_OK;
    struct chunk c;
    bool more = !*memory;
    for (int64_t at = SIGNATURE; more && chunk_at(&c, bytes, size, at); at = c.next)
        more = !is(&c, "IDAT") || inflate_lines(&s, &c);
    if (!*memory)
        inflateEnd(&s.z);
    memory_free(s.line);
    return !*memory && !seek_line(&s);
}

/* -------------------------------------------------------------------------------- what else there is */

/* The text of an iTXt chunk with XMP: after its keyword, two bytes that say that it is not packed, and two texts. */
static const uint8_t *xmp_text(const struct chunk *c, int64_t *size)
{
    static const char head[] = "XML:com.adobe.xmp\0\0";
    const uint8_t *at = c->data, *end = c->data + c->length;
    if (!is(c, "iTXt") || c->length <= (int64_t)sizeof head || memcmp(at, head, sizeof head) != 0)
        return NULL;
    at += sizeof head;
    for (int skipped = 0; skipped < 2; skipped++) {
        at = memchr(at, 0, (size_t)(end - at));
        if (!at++)
            return NULL;
    }
    *size = end - at;
    return at;
}

struct error png_read_others(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    struct chunk c;
    bool behind = false, animated = false;
    int exif = 0, xmp = 0;
    for (int64_t at = SIGNATURE, length; chunk_at(&c, bytes, size, at) && !is(&c, "IEND"); at = c.next) {
        behind = behind || is(&c, "IDAT");
        animated = animated || is(&c, "acTL");
        if (behind && animated && is(&c, "fcTL")) /* the next picture of an animation */
            break;
        if (c.present < c.length && !is(&c, "IDAT"))
            return error_input("PNG is cut short");
        const uint8_t *text = xmp_text(&c, &length);
        if (text)
            xmp = xmp_orientation(text, length);
        if (is(&c, "eXIf"))
            exif = exif_orientation(c.data, c.length);
    }
    d->orientation = exif ? exif : xmp;
    return ok();
}
