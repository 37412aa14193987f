#include "files/picture_decode.h"

#include <string.h>

static uint32_t number_at(const uint8_t *bytes, int64_t count, bool big)
{
    uint32_t value = 0;
    for (int64_t i = 0; i < count; i++)
        value |= (uint32_t)bytes[i] << 8 * (big ? count - 1 - i : i);
    return value;
}

int exif_orientation(const uint8_t *exif, int64_t size)
{
    for (; size >= 6 && memcmp(exif, "Exif\0\0", 6) == 0; size -= 6) /* some write it twice */
        exif += 6;
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

int xmp_orientation(const uint8_t *text, int64_t size)
{
    static const char name[] = "tiff:Orientation";
    if (size < 1) // and perhaps no text
        return 0;
    const uint8_t *end = text + size, *at = text;
    while ((at = memmem(at, (size_t)(end - at), name, sizeof name - 1))) {
        at += sizeof name - 1;
        size_t mark = end - at >= 3 && memcmp(at, "=\"", 2) == 0 ? 2 : end - at >= 2 && *at == '>' ? 1 : 0;
        if (mark && at[mark] >= '0' && at[mark] <= '9')
            return at[mark] >= '1' && at[mark] <= '8' ? at[mark] - '0' : 0;
    }
    return 0;
}
