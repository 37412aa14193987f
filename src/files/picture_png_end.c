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

/* -------------------------------------------------------------------------------- what follows them */

/* Where the chunk after the pixels begins. */
static int64_t end_of_pixels(const uint8_t *bytes, int64_t size, bool *animated)
{
    struct chunk c;
    int64_t at = SIGNATURE;
    for (bool inside = false; chunk_at(&c, bytes, size, at) && (!inside || is(&c, "IDAT")); at = c.next) {
        inside = is(&c, "IDAT");
        *animated = *animated || is(&c, "acTL");
    }
    return at;
}

struct error png_read_end_of(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    struct chunk c;
    bool animated = false;
    for (int64_t at = end_of_pixels(bytes, size, &animated); chunk_at(&c, bytes, size, at); at = c.next) {
        if (is(&c, "IEND") || (animated && is(&c, "fcTL"))) /* the next picture of an animation */
            break;
        if (c.present < c.length)
            return error_input("PNG is cut short");
        if (is(&c, "eXIf"))
            d->orientation = exif_orientation(c.data, c.length);
    }
    return ok();
}
