/* files/picture_decode.h
 *
 * The two formats behind picture_read, each told apart by its first bytes. A decoder gives the rows as they are stored,
 * 8-bit RGB, and the EXIF block that says how the camera was held; turning is picture.c's. libpng and libjpeg report
 * through longjmp: both are called only inside a function that holds the setjmp, and all they make hangs on a struct
 * outside it, so that an error frees the same things as success.
 *
 * Errors do not name the file yet.
 */
#ifndef ZOODIP_FILES_PICTURE_DECODE_H
#define ZOODIP_FILES_PICTURE_DECODE_H

#include "files/picture.h"

enum { PICTURE_PIXELS = 1 << 28 };

/* Orientation 1..8 of a TIFF-shaped EXIF block (the "Exif\0\0" before it taken off), 1 for a senseless one; 0 where the
 * block holds none or is broken. */
int exif_orientation(const uint8_t *exif, int64_t size);

/* orientation: 0 where the file has none. On an error the picture is empty. */
struct error png_decode(struct picture *picture, int *orientation, const uint8_t *bytes, int64_t size);
struct error jpeg_decode(struct picture *picture, int *orientation, const uint8_t *bytes, int64_t size);

#endif
