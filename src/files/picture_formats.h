/* files/picture_formats.h
 *
 * Which formats of pictures there are, known by their contents, never by their names; which of them this program reads;
 * and the endings of names that a folder's pictures have. PNG, JPEG and WebP are always read, AVIF and HEIC where their
 * libraries were found when the program was built (ZOODIP_AVIF, ZOODIP_HEIF).
 */
#ifndef ZOODIP_FILES_PICTURE_FORMATS_H
#define ZOODIP_FILES_PICTURE_FORMATS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

struct decoded;

/* Decodes whichever format the bytes have, as picture_decode.h says; refuses one that is not read by its name. */
struct error picture_decode(struct decoded *d, const uint8_t *bytes, int64_t size);

/* ".png, .jpg, ...": the endings of what is read. */
extern const char picture_endings[];

/* By its ending: a picture that is read. */
bool picture_is_named(const char *name);

/* What can be done about a picture, by its ending, that is not read: the formats' remedies, joined by "; ". Starts empty;
 * names that are no pictures' add nothing. */
enum { PICTURE_REMEDY = 200 };
void picture_add_remedy(char text[PICTURE_REMEDY], const char *name);

/* A line for --version: what is read, with the libraries' versions, and what is not. */
void picture_formats_print(FILE *stream);

#endif
