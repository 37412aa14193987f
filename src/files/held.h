/* files/held.h
 *
 * A folder that is held open: what is done in it is done in that folder, wherever its path leads meanwhile. Names in it
 * are plain, without a slash, and a link of such a name is never followed.
 */
#ifndef ZOODIP_FILES_HELD_H
#define ZOODIP_FILES_HELD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/file.h"

struct held {
    int descriptor;
    char path[PATH_SIZE]; /* as it was opened, for errors */
};

/* What is called by a name. */
enum held_kind { HELD_NOTHING, HELD_FILE, HELD_FOLDER, HELD_LINK, HELD_OTHER };

/* Opens an existing folder; links in PATH are followed. Close with held_close, also after an error. */
struct error held_open(struct held *held, const char *path);

/* Opens the folder of this name in another; makes it if there is nothing of that name. */
struct error held_enter(struct held *held, const struct held *parent, const char *name);
void held_close(struct held *held);

/* Whether the folder itself was removed, so that nothing can ever be in it again. */
bool held_is_removed(const struct held *held);

/* *modified: when it last was, in seconds since 1970; may be NULL. HELD_OTHER also where one cannot look. */
enum held_kind held_look(const struct held *held, const char *name, double *modified);

/* The names in it, as folder_list gives them. */
struct error held_list(const struct held *held, char ***names, int64_t *count);

/* Reads a regular file, as file_read does. ERROR_BAD_INPUT: the file is at fault; ERROR_FAILED: the system. */
struct error held_read(const struct held *held, const char *name, int64_t limit, char **data, int64_t *size);

/* Makes a file appear, whole; what had its name is replaced, unless that is a folder. */
struct error held_write(const struct held *held, const char *name, const char *text);

/* The same without waiting for the disk, for what the next moment makes obsolete: after a loss of power the file may be
 * an older one, or empty. */
struct error held_write_lightly(const struct held *held, const char *name, const char *text);

/* Moves a file, a link or anything else that is no folder; what had its new name is replaced, unless that is a folder. */
struct error held_move(const struct held *from, const char *name, const struct held *to, const char *new_name);

/* Whether a file of so many bytes could be written now. True where the file system does not let us try. */
bool held_has_room(const struct held *held, int64_t bytes);

#endif
