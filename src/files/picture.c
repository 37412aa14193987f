#include "files/picture.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/picture_decode.h"
#include "files/picture_formats.h"

enum { FILE_LIMIT = 1 << 30 };

struct error picture_new(struct picture *picture, int64_t width, int64_t height)
{
    *picture = (struct picture){0};
    int64_t pixels;
    if (width < 0 || height < 0 || __builtin_mul_overflow(width, height, &pixels))
        return error_failed("a picture cannot be %lld x %lld", (long long)width, (long long)height);
    uint8_t *rgb = memory_alloc(pixels, 3);
    if (!rgb)
        return error_memory("a picture");
    *picture = (struct picture){width, height, rgb};
    return ok();
}

void picture_free(struct picture *picture)
{
    memory_free(picture->rgb);
    *picture = (struct picture){0};
}

/* Turns a picture according to its EXIF orientation. Each of the eight is: swap the axes or not, then mirror each or
 * not. */
static struct error orient(struct picture *picture, int orientation)
{
    static const struct {
        bool swapped, mirror_x, mirror_y; /* the mirrors apply to the source's axes */
    } turns[9] = {
        [2] = {false, true, false}, [3] = {false, true, true}, [4] = {false, false, true}, [5] = {true, false, false},
        [6] = {true, false, true},  [7] = {true, true, true},  [8] = {true, true, false},
    };
    if (orientation < 2)
        return ok();
    bool swapped = turns[orientation].swapped;
    struct picture to;
    TRY(picture_new(&to, swapped ? picture->height : picture->width, swapped ? picture->width : picture->height));
    uint8_t *pixel = to.rgb;
    for (int64_t y = 0; y < to.height; y++) {
        for (int64_t x = 0; x < to.width; x++, pixel += 3) {
            int64_t from_x = swapped ? y : x, from_y = swapped ? x : y;
            from_x = turns[orientation].mirror_x ? picture->width - 1 - from_x : from_x;
            from_y = turns[orientation].mirror_y ? picture->height - 1 - from_y : from_y;
            memcpy(pixel, picture->rgb + 3 * (from_y * picture->width + from_x), 3);
        }
    }
    picture_free(picture);
    *picture = to;
    return ok();
}

/* -------------------------------------------------------------------------------- reading */

struct error decoded_new(struct decoded *d, int64_t width, int64_t height, int channels)
{
    if (width < 1 || height < 1)
        return error_input("%lld x %lld pixels are no picture", (long long)width, (long long)height);
    if (width > PICTURE_PIXELS / height)
        return error_input("%lld x %lld pixels are too many", (long long)width, (long long)height);
    d->width = width;
    d->height = height;
    d->channels = channels;
    d->pixels = memory_alloc(width * height, channels);
    return d->pixels ? ok() : error_memory("a picture");
}

/* Pillow's Image.alpha_composite over an opaque color, which rounds once: with 7 more bits, then by SHIFTFORDIV255. */
static uint8_t lay_over(uint8_t color, uint8_t under, uint32_t alpha)
{
    enum { BITS = 7 };
    uint32_t sum = (color * alpha << BITS) + (under * (255 - alpha) << BITS) + (0x80 << BITS);
    return (uint8_t)(((sum >> 8) + sum) >> 8 >> BITS);
}

/* RGBA -> RGB, in place. */
static void drop_alpha(struct decoded *d, const uint8_t *background)
{
    uint8_t *to = d->pixels, *from = d->pixels;
    for (int64_t i = 0; i < d->width * d->height && d->channels == 4; i++, to += 3, from += 4) {
        uint8_t alpha = background ? from[3] : 255;
        for (int c = 0; c < 3; c++)
            to[c] = alpha == 255 ? from[c] : lay_over(from[c], background[c], alpha);
    }
}

static struct error decode(struct picture *picture, const uint8_t *bytes, int64_t size, const uint8_t *background)
{
    struct decoded d = {0};
    struct error e = picture_decode(&d, bytes, size);
    if (e.code == ERROR_NONE) {
        drop_alpha(&d, background);
        *picture = (struct picture){d.width, d.height, d.pixels};
        e = orient(picture, d.orientation);
    } else {
        memory_free(d.pixels);
    }
    if (e.code != ERROR_NONE)
        picture_free(picture);
    return e;
}

bool picture_background(const char *name, uint8_t background[3], bool *shown)
{
    unsigned digits = strcmp(name, "white") == 0 ? 0xffffff : 0;
    *shown = strcmp(name, "none") != 0;
    if (*name == '#' && strlen(name) == 7 && strspn(name + 1, "0123456789abcdefABCDEF") == 6)
        digits = (unsigned)strtoul(name + 1, NULL, 16);
    else if (*shown && digits == 0 && strcmp(name, "black") != 0)
        return false;
    for (int c = 0; c < 3; c++)
        background[c] = (uint8_t)(digits >> (16 - 8 * c));
    return true;
}

struct error picture_read(struct picture *picture, const char *path, const uint8_t *background)
{
    *picture = (struct picture){0};
    char *bytes;
    int64_t size;
    TRY(file_read(path, FILE_LIMIT, &bytes, &size));
    struct error e = decode(picture, (const uint8_t *)bytes, size, background);
    memory_free(bytes);
    return error_in(e, "%s", path);
}

void picture_paste(struct picture *to, const struct picture *from, int64_t x, int64_t y)
{
    int64_t left = x > 0 ? x : 0, right = x + from->width < to->width ? x + from->width : to->width;
    int64_t top = y > 0 ? y : 0, bottom = y + from->height < to->height ? y + from->height : to->height;
    for (int64_t row = top; row < bottom && left < right; row++)
        memcpy(to->rgb + 3 * (row * to->width + left), from->rgb + 3 * ((row - y) * from->width + left - x),
               (size_t)(3 * (right - left)));
}
