/* files/picture.h
 *
 * Pictures in and out: PNG and JPEG decoded to 8-bit RGB as Pillow's Image.open(...).convert("RGB") gives them, EXIF
 * orientation applied (ImageOps.exif_transpose; in a JPEG also XMP's), resized and cropped as Pillow does. The bytes
 * are equal to Pillow's.
 */
#ifndef ZOODIP_FILES_PICTURE_H
#define ZOODIP_FILES_PICTURE_H

#include <stdint.h>

#include "base/error.h"

struct picture {
    int64_t width, height;
    uint8_t *rgb; /* [height, width, 3], owned; free with picture_free */
};

enum fit {
    FIT_CROP,   /* the largest centred part of the target's shape, resized; for a square: diffusers' center_crop */
    FIT_SQUASH, /* resized to the target's shape, whatever its own */
};

struct error picture_new(struct picture *picture, int64_t width, int64_t height); /* black */
void picture_free(struct picture *picture);

/* Reads a PNG or JPEG, recognized by its first bytes. Refuses other formats by name, and pictures of more than 2^28
 * pixels. */
struct error picture_read(struct picture *picture, const char *path);

/* Pillow's Image.resize((width, height), BICUBIC): separable, antialiased when it shrinks, 8-bit fixed point
 * between. */
struct error picture_resize(struct picture *to, const struct picture *from, int64_t width, int64_t height);

/* Resized to the target's shape in one of the two ways. */
struct error picture_fit(struct picture *to, const struct picture *from, int64_t width, int64_t height, enum fit fit);

/* Writes an 8-bit RGB PNG, whole or not at all. */
struct error picture_write(const struct picture *picture, const char *path);

/* The PNG bytes in memory, for the report. Free with memory_free. */
struct error picture_encode(const struct picture *picture, uint8_t **png, int64_t *size);

/* Writes a JPEG, whole or not at all. quality: libjpeg's, 1 to 100. */
struct error picture_write_jpeg(const struct picture *picture, const char *path, int quality);

/* Copies `from` into `to` with its upper left corner at (x, y); what falls outside is cut. */
void picture_paste(struct picture *to, const struct picture *from, int64_t x, int64_t y);

#endif
