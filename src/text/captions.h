/* text/captions.h
 *
 * The captions of the pictures, with "{}" where the word goes: the templates of diffusers' textual inversion
 * (examples/textual_inversion/textual_inversion.py: 27 for objects, 19 for styles), or comprehensive captions, one for
 * each picture: from a file {subject: {file name: "a photo of a {} on the beach"}} or {file name: caption} alone, or from
 * a text file each, as most trainers of other programs take them.
 */
#ifndef ZOODIP_TEXT_CAPTIONS_H
#define ZOODIP_TEXT_CAPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

struct captions {
    int64_t count;
    char **templates; /* [count], owned */
};

/* The templates for an object, or for a style. */
struct error captions_templates(struct captions *c, bool style);

/* pictures [count]: paths; caption i is that of picture i. A picture's subject is the name of the folder that it is in:
 * as its path is written, or, if the file knows no such subject, with links resolved. Names are compared in NFC. Errors
 * name the file, the picture and the remedy. */
struct error captions_read(struct captions *c, const char *path, const char *const *pictures, int64_t count);

/* files [count]: a text file for each picture, UTF-8. Its first line that is not empty counts, without the white space
 * around it (kohya's sd-scripts takes the first line). Where it says "{}" nowhere, `word` marks the places, if it is no
 * part of a longer word; large and small letters are alike. more: the names of files that have further lines. Errors name
 * the file. */
struct error captions_beside(struct captions *c, char *const *files, int64_t count, const char *word,
                             struct text_few *more);

/* Nothing is owned after an error of the above. */
void captions_free(struct captions *c);

/* The template with every "{}" replaced by the word. memory_free. */
struct error captions_fill(const char *template, const char *word, char **text);

#endif
