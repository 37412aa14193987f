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
    bool first_stays;
    struct claim claim;
};

/* Makes the folder to write into. ERROR_FAILED if another process of this machine is still writing it, too, after `wait`
 * seconds, or has made it appear meanwhile. Nothing is owned after an error. `host`: this machine's name where several
 * may write the same folder at once, each as .NAME.HOST.zoodip-new, and the first that appears stays; else "". */
struct error whole_folder_begin(struct whole_folder *f, const char *path, const char *host, double wait);

/* Makes the folder appear in place of an older one, which is removed with all that it holds: whether that is wanted, the
 * caller has checked. With a host an older one stays, and the new one is removed. If `good` is false, removes what was written instead. */
struct error whole_folder_end(struct whole_folder *f, bool good);

#endif
