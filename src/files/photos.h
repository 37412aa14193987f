/* files/photos.h
 *
 * Which files are the subject's pictures: those of a folder, or the files of a list; and what lies beside a picture
 * NAME.jpg: its caption NAME.txt and its mask NAME-mask.png or NAME-masklabel.png. A file that is called
 * like a mask is never a picture.
 */
#ifndef ZOODIP_FILES_PHOTOS_H
#define ZOODIP_FILES_PHOTOS_H

#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "files/config.h"
#include "files/picture_formats.h"

/* What is there and goes unused: files that are nothing of the above (other than hidden files, those that Windows leaves,
 * and data.captions), captions that the config does not ask for, masks without a picture. */
enum unused_kind { UNUSED_FILES, UNUSED_CAPTIONS, UNUSED_MASKS, UNUSED_KINDS };

struct photos {
    int64_t count;
    char **paths;    /* [count], in the order of their names, or of the list */
    char **captions; /* [count]: each picture's NAME.txt, if the config takes captions from there, else NULL */
    char **masks;    /* [count]: a picture's mask; NULL where it has none */
    struct text_few unused[UNUSED_KINDS];
    char remedy[PICTURE_REMEDY]; /* "; TIFF: ...": what would make pictures of the first kind be read */
};

/* What data.images means. Captions that use_cc takes from beside the pictures are all there. Free with photos_free, after an
 * error too. */
struct error photos_list(const struct config *config, struct photos *photos);
void photos_free(struct photos *photos);

/* Only whether there are any: its errors are photos_list's. */
struct error photos_check(const struct config *config);

/* Logs warnings that name what is not used, and what would use it. */
void photos_warn_unused(const struct config *config, const struct photos *photos);

#endif
