/* files/picture_decode.h
 *
 * The two formats that picture_read knows, recognized by their first bytes. A decoder returns the rows as stored, in
 * 8-bit RGB, and the EXIF orientation, which picture.c applies. libpng and libjpeg report errors through longjmp: both
 * are called only inside a function that holds the setjmp, and everything they allocate hangs on a struct outside it,
 * so that an error frees the same things as success.
 *
 * Errors do not name the file yet.
 */
#ifndef ZOODIP_FILES_PICTURE_DECODE_H
#define ZOODIP_FILES_PICTURE_DECODE_H

#include "files/picture.h"

enum { PICTURE_PIXELS = 1 << 28 };

/* Orientation 1..8 of a TIFF-shaped EXIF block (without the "Exif\0\0" before it), 1 for a value out of range; 0 if the
 * block has none or is broken. */
int exif_orientation(const uint8_t *exif, int64_t size);

/* orientation: 0 if the file has none. On an error the picture is empty. */
struct error png_decode(struct picture *picture, int *orientation, const uint8_t *bytes, int64_t size);
struct error jpeg_decode(struct picture *picture, int *orientation, const uint8_t *bytes, int64_t size);

#endif
