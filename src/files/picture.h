/* files/picture.h
 *
 * Pictures in and out: PNG, JPEG, WebP and, where the program was built with their libraries, AVIF and HEIC, decoded to
 * 8-bit RGB as Pillow's Image.open(...).convert("RGB") gives them, orientation applied (ImageOps.exif_transpose, by EXIF
 * or else XMP), laid over a background (Image.alpha_composite), resized and cropped as Pillow does. The bytes are equal to
 * Pillow's; in AVIF and HEIC where it comes with the same libraries.
 *
 * Where Pillow errs, we do not follow: gray PNGs of 16 bits keep their tones, where it makes all but the darkest 256
 * white; and the transparent color of a PNG (tRNS) is compared with all of its bits where it has 2, 4 or 16.
 */
#ifndef ZOODIP_FILES_PICTURE_H
#define ZOODIP_FILES_PICTURE_H

#include <stdbool.h>
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

/* Reads a picture, whose format its contents tell. What is transparent shows the background, a color [3]; NULL: the color
 * that lies under it, which depends on who drew the picture. Refuses other formats by name, pictures of more than 2^28
 * pixels, and files that are cut off before the last pixel. Of an animation the first picture. */
struct error picture_read(struct picture *picture, const char *path, const uint8_t *background);

/* "white", "black" or "#rrggbb" -> background [3]; "none": *shown false. Returns whether the name is one of these. */
bool picture_background(const char *name, uint8_t background[3], bool *shown);

/* Pillow's Image.resize((width, height), BICUBIC): separable, antialiased when it shrinks, 8-bit fixed point
 * between. */
struct error picture_resize(struct picture *to, const struct picture *from, int64_t width, int64_t height);

/* Resized to the target's shape in one of the two ways. */
struct error picture_fit(struct picture *to, const struct picture *from, int64_t width, int64_t height, enum fit fit);

/* Writes an 8-bit RGB PNG, whole or not at all. parameters: what it says about itself (report/parameters.h), UTF-8, as
 * Pillow and with it AUTOMATIC1111 write it: a chunk tEXt of that name if Latin-1 can hold it, else iTXt. NULL: none. */
struct error picture_write(const struct picture *picture, const char *path, const char *parameters);

/* The PNG bytes in memory, for the report. Free with memory_free. */
struct error picture_encode(const struct picture *picture, uint8_t **png, int64_t *size);

/* Writes a JPEG, whole or not at all. quality: libjpeg's, 1 to 100. */
struct error picture_write_jpeg(const struct picture *picture, const char *path, int quality);

/* Copies `from` into `to` with its upper left corner at (x, y); what falls outside is cut. */
void picture_paste(struct picture *to, const struct picture *from, int64_t x, int64_t y);

#endif
