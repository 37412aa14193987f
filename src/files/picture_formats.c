#include "files/picture_formats.h"
#include "files/picture_decode.h"

#include <string.h>
#include <strings.h>

#include <webp/decode.h>

#ifdef ZOODIP_AVIF
#include <avif/avif.h>
#define AVIF_ENDING ", .avif"
#define AVIF_NAME   ", AVIF"
#else
#define avif_decode NULL
#define AVIF_ENDING ""
#define AVIF_NAME   ""
#endif
#ifdef ZOODIP_HEIF
#include <libheif/heif.h>
#define HEIF_ENDING ", .heic, .heif"
#define HEIF_NAME   ", HEIC"
#else
#define heif_decode NULL
#define HEIF_ENDING ""
#define HEIF_NAME   ""
#endif

#define EXPECTED       "expected one of PNG, JPEG, WebP" AVIF_NAME HEIF_NAME
#define CONVERT        "convert it to PNG"
#define BUILD(package) "install " package " and build zoodip again, or convert to PNG"

const char picture_endings[] = ".png, .jpg, .jpeg, .jfif, .webp" AVIF_ENDING HEIF_ENDING;

/* ISO files (ISO/IEC 14496-12) begin with a box "ftyp" that lists brands: the major one, a version, compatible ones. */
static bool has_brand(const uint8_t *bytes, int64_t size, const char *brands)
{
    if (size < 16 || memcmp(bytes + 4, "ftyp", 4) != 0)
        return false;
    int64_t box = (int64_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
    for (int64_t at = 8; at + 4 <= box && at + 4 <= size; at += at == 8 ? 8 : 4)
        for (const char *brand = brands; *brand; brand += 4)
            if (memcmp(bytes + at, brand, 4) == 0)
                return true;
    return false;
}

static bool is_webp(const uint8_t *bytes, int64_t size)
{
    return size >= 12 && memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBP", 4) == 0;
}

static bool is_avif(const uint8_t *bytes, int64_t size)
{
    return has_brand(bytes, size, "avifavis");
}

/* mif1 and msf1 alone say that it is some HEIF. */
static bool is_heif(const uint8_t *bytes, int64_t size)
{
    return has_brand(bytes, size, "heicheixheimheishevchevxhevmhevsmif1msf1");
}

/* What a file of the format begins with, or how it is known; what decodes it, or what to do. The first that fits counts. */
static const struct format {
    const char *name, *magic;
    int64_t length;
    bool (*is)(const uint8_t *bytes, int64_t size);
    struct error (*decode)(struct decoded *d, const uint8_t *bytes, int64_t size);
    const char *endings; /* each followed by a blank */
    const char *remedy;  /* where it is not read */
} formats[] = {
    {"PNG", "\x89PNG\r\n\x1a\n", 8, NULL, png_decode, ".png ", NULL},
    {"JPEG", "\xff\xd8\xff", 3, NULL, jpeg_decode, ".jpg .jpeg .jfif ", NULL},
    {"WebP", NULL, 0, is_webp, webp_decode, ".webp ", NULL},
    {"AVIF", NULL, 0, is_avif, avif_decode, ".avif ", BUILD("libavif-dev")},
    {"HEIC", NULL, 0, is_heif, heif_decode, ".heic .heif ", BUILD("libheif-dev")},
    {"GIF", "GIF8", 4, NULL, NULL, ".gif ", CONVERT},
    {"BMP", "BM", 2, NULL, NULL, ".bmp ", CONVERT},
    {"TIFF", "II*\0", 4, NULL, NULL, ".tif .tiff ", CONVERT},
    {"TIFF", "MM\0*", 4, NULL, NULL, "", CONVERT},
    {"JPEG XL", "\0\0\0\x0cJXL ", 8, NULL, NULL, ".jxl ", CONVERT},
    {"JPEG XL", "\xff\x0a", 2, NULL, NULL, "", CONVERT},
    {"JPEG 2000", "\0\0\0\x0cjP  ", 8, NULL, NULL, ".jp2 ", CONVERT},
};
enum { FORMATS = sizeof formats / sizeof *formats };

struct error picture_decode(struct decoded *d, const uint8_t *bytes, int64_t size)
{
    for (const struct format *f = formats; f < formats + FORMATS; f++) {
        if (f->is ? !f->is(bytes, size) : size < f->length || memcmp(bytes, f->magic, (size_t)f->length) != 0)
            continue;
        return f->decode ? f->decode(d, bytes, size)
                         : error_input("is a picture in the format %s, " EXPECTED ": %s", f->name, f->remedy);
    }
    return error_input("is not a picture: " EXPECTED);
}

/* The format whose pictures are called so, or NULL. */
static const struct format *named(const char *name)
{
    const char *dot = strrchr(name, '.');
    for (const struct format *f = formats; dot && f < formats + FORMATS; f++)
        for (const char *ending = f->endings; *ending; ending += strcspn(ending, " ") + 1)
            if (strcspn(ending, " ") == strlen(dot) && strncasecmp(dot, ending, strlen(dot)) == 0)
                return f;
    return NULL;
}

bool picture_is_named(const char *name)
{
    const struct format *f = named(name);
    return f && f->decode;
}

void picture_add_remedy(char text[PICTURE_REMEDY], const char *name)
{
    const struct format *f = named(name);
    if (!f || f->decode || strstr(text, f->name))
        return;
    size_t used = strlen(text);
    snprintf(text + used, PICTURE_REMEDY - used, "; %s: %s", f->name, f->remedy);
}

void picture_formats_print(FILE *stream)
{
    int webp = WebPGetDecoderVersion();
    fprintf(stream, "pictures: PNG, JPEG, WebP (libwebp %d.%d.%d)", webp >> 16, webp >> 8 & 255, webp & 255);
#ifdef ZOODIP_AVIF
    fprintf(stream, ", AVIF (libavif %s)", avifVersion());
#endif
#ifdef ZOODIP_HEIF
    fprintf(stream, ", HEIC (libheif %s%s)", heif_get_version(),
            heif_have_decoder_for_format(heif_compression_HEVC) ? "" : ", which has no decoder of HEVC here");
#endif
    const char *separator = "; not built in: ";
    for (const struct format *f = formats; f < formats + FORMATS; f++) {
        if ((f->is != is_avif && f->is != is_heif) || f->decode)
            continue;
        fprintf(stream, "%s%s", separator, f->name);
        separator = ", ";
    }
    fputc('\n', stream);
}
