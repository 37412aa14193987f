/* files/whole_folder.h
 *
 * A folder that appears complete or not at all: it is written beside its place under another name, .NAME.zoodip-new, and
 * renamed at the end. What a killed process left under that name is removed by the next that writes the same folder.
 *
 * Invariant: PATH is what it was before, or the whole new folder. On file systems that cannot exchange two folders (some
 * of networks), an older PATH is missing for a moment; a process killed then leaves it as .NAME.zoodip-old, and the next
 * whole_folder_begin puts it back.
 */
#ifndef ZOODIP_FILES_WHOLE_FOLDER_H
#define ZOODIP_FILES_WHOLE_FOLDER_H

#include <stdbool.h>

#include "base/error.h"
#include "files/claim.h"
#include "files/file.h"

struct whole_folder {
    char temporary[PATH_SIZE]; /* write into this folder; made by begin */
    char path[PATH_SIZE];      /* private, as is the rest: without links and final slashes */
    char old[PATH_SIZE];
    struct claim claim;
};

/* Makes the folder to write into. ERROR_FAILED if another process of this machine is writing it, too. Nothing is owned
 * after an error. */
struct error whole_folder_begin(struct whole_folder *f, const char *path);

/* Makes the folder appear in place of an older one, which is removed with all that it holds: whether that is wanted, the
 * caller has checked. If `good` is false, removes what was written instead. */
struct error whole_folder_end(struct whole_folder *f, bool good);

#endif
