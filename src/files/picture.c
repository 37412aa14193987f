#include "files/picture.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/picture_decode.h"

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

static uint32_t number_at(const uint8_t *bytes, int64_t count, bool big)
{
    uint32_t value = 0;
    for (int64_t i = 0; i < count; i++)
        value |= (uint32_t)bytes[i] << 8 * (big ? count - 1 - i : i);
    return value;
}

int exif_orientation(const uint8_t *exif, int64_t size)
{
    if (size < 8 || (memcmp(exif, "II", 2) != 0 && memcmp(exif, "MM", 2) != 0))
        return 0;
    bool big = exif[0] == 'M';
    int64_t at = number_at(exif + 4, 4, big);
    if (number_at(exif + 2, 2, big) != 42 || at > size - 2)
        return 0;
    int64_t fields = number_at(exif + at, 2, big);
    at += 2;
    for (int64_t i = 0; i < fields && at <= size - 12; i++, at += 12) {
        uint32_t tag = number_at(exif + at, 2, big), type = number_at(exif + at + 2, 2, big);
        uint32_t count = number_at(exif + at + 4, 4, big);
        if (tag != 0x0112 || count != 1 || (type != 1 && type != 3 && type != 4))
            continue;
        uint32_t value = number_at(exif + at + 8, type == 3 ? 2 : type, big); /* types 1, 3, 4: 1, 2, 4 bytes */
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 0;
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

static const struct format {
    const char *name, *magic;
    int64_t length;
    struct error (*decode)(struct picture *picture, int *orientation, const uint8_t *bytes, int64_t size);
} formats[] = {
    {"PNG", "\x89PNG\r\n\x1a\n", 8, png_decode},
    {"JPEG", "\xff\xd8\xff", 3, jpeg_decode},
    {"GIF", "GIF8", 4, NULL},
    {"WebP or another RIFF", "RIFF", 4, NULL},
    {"BMP", "BM", 2, NULL},
    {"TIFF", "II*\0", 4, NULL},
    {"TIFF", "MM\0*", 4, NULL},
    {"HEIC or AVIF", "\0\0\0", 3, NULL},
};

static struct error decode(struct picture *picture, const uint8_t *bytes, int64_t size)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const struct format *f = &formats[i];
        if (size < f->length || memcmp(bytes, f->magic, (size_t)f->length) != 0)
            continue;
        if (!f->decode)
            return error_input("is a %s file, expected PNG or JPEG", f->name);
        int orientation;
        TRY(f->decode(picture, &orientation, bytes, size));
        struct error e = orient(picture, orientation);
        if (e.code != ERROR_NONE)
            picture_free(picture);
        return e;
    }
    return error_input("is not a picture: expected PNG or JPEG");
}

struct error picture_read(struct picture *picture, const char *path)
{
    *picture = (struct picture){0};
    char *bytes;
    int64_t size;
    TRY(file_read(path, FILE_LIMIT, &bytes, &size));
    struct error e = decode(picture, (const uint8_t *)bytes, size);
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
