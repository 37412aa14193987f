/* files/picture_decode.h
 *
 * The decoders behind picture_read, one for each format of picture_formats.h. A decoder returns the rows as stored, in 8
 * bits, with alpha where the file has some, and the orientation; picture.c lays them over a background and turns them.
 * libpng and libjpeg report errors through longjmp: both are called only inside a function that holds the setjmp, and
 * everything they allocate hangs on a struct outside it, so that an error frees the same things as success.
 *
 * A size is looked at before anything is allocated for it: at most PICTURE_PIXELS, and what the file's bytes can hold.
 * Errors do not name the file yet.
 */
#ifndef ZOODIP_FILES_PICTURE_DECODE_H
#define ZOODIP_FILES_PICTURE_DECODE_H

#include <stdbool.h>
#include <stddef.h>

#include "files/picture.h"

#ifdef ZOODIP_FUZZ
enum { PICTURE_BITS = 22 }; /* a few bytes of WebP can be a sound picture of any size, which is not worth the time */
#else
enum { PICTURE_BITS = 28 };
#endif
enum { PICTURE_PIXELS = 1 << PICTURE_BITS };

struct decoded {
    int64_t width, height;
    int channels;    /* 3: RGB, 4: RGBA, colors not multiplied by alpha */
    uint8_t *pixels; /* [height, width, channels]; memory_free, after an error too */
    int orientation; /* as EXIF counts, 1..8; 0: the file says nothing */
};

/* Room for the pixels. ERROR_BAD_INPUT for a size that is no picture's. */
struct error decoded_new(struct decoded *d, int64_t width, int64_t height, int channels);

struct error png_decode(struct decoded *d, const uint8_t *bytes, int64_t size);
struct error jpeg_decode(struct decoded *d, const uint8_t *bytes, int64_t size);
struct error webp_decode(struct decoded *d, const uint8_t *bytes, int64_t size);
struct error avif_decode(struct decoded *d, const uint8_t *bytes, int64_t size); /* with libavif only */
struct error heif_decode(struct decoded *d, const uint8_t *bytes, int64_t size); /* with libheif only */

/* Orientation 1..8 of a TIFF-shaped EXIF block, with "Exif\0\0" before it or without, 1 for a value out of range; 0 if
 * the block has none or is broken. */
int exif_orientation(const uint8_t *exif, int64_t size);

/* tiff:Orientation="6" or <tiff:Orientation>6 in an XMP text, what Pillow uses if EXIF says nothing; 0: it says nothing
 * or none of 1..8. */
int xmp_orientation(const uint8_t *text, int64_t size);

/* -------------------------------------------------------------------------------- a PNG's chunks */

/* Lines of pixels as they lie in a PNG's stream, each after the byte that names its filter: one pass, or seven. */
struct png_lines {
    int64_t passes, rows[7], bytes[7];
};

/* Where the chunk of pixels begins whose end is missing; -1: there is none. */
int64_t png_cut_chunk(const uint8_t *bytes, int64_t size);

/* Whether the stream of a file that was cut off still holds all of these lines. memory: out of it. */
bool png_has_lines(const uint8_t *bytes, int64_t size, const struct png_lines *lines, bool *memory);

/* What the other chunks say, before and after the pixels: the orientation. An error if the file ends within a chunk that
 * Pillow reads after the pixels; it may end anywhere else, or go on with something that is no chunk. */
struct error png_read_others(struct decoded *d, const uint8_t *bytes, int64_t size);

#endif
