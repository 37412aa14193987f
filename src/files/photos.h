/* files/photos.h
 *
 * Which files are the subject's pictures: those of a folder, or the files of a list.
 */
#ifndef ZOODIP_FILES_PHOTOS_H
#define ZOODIP_FILES_PHOTOS_H

#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "files/config.h"

/* The paths that data.images means, in the order of their names or of the list. After an error, too, the caller frees
 * the paths and the list. unused: what the folder holds besides, other than hidden files, the files that Windows leaves
 * and data.captions. */
struct error photos_list(const struct config *config, char ***paths, int64_t *count, struct text_few *unused);

/* Only whether there are any: its errors are photos_list's. */
struct error photos_check(const struct config *config);

/* Logs a warning that names them. */
void photos_warn_unused(const struct config *config, const struct text_few *unused);

#endif
