/* queue/inbox.h
 *
 * The folder of a spool, on rank 0: files NAME.json that wait, and running/, done/ and failed/, where they go.
 *
 * Invariant: whatever lies in these folders, or replaces them, ends nothing. All four are used through descriptors, and
 * links in them are moved as links, never followed (files/held.h). What replaces running/, done/ or failed/ is set aside
 * into failed/; only at the start a link there is refused. What cannot be done now is tried again at each scan, and said
 * once for as long as it lasts; a job that has ended is not begun again because its file cannot be moved.
 */
#ifndef ZOODIP_QUEUE_INBOX_H
#define ZOODIP_QUEUE_INBOX_H

#include "files/claim.h"
#include "files/held.h"
#include "queue/jobs.h"

/* A job that has ended, and whose file is still in running/. */
struct ended_job {
    char *name;
    char *reason; /* NULL: done */
};

struct inbox {
    struct held root;

    /* private */
    struct claim claim;
    struct ended_job *ended;
    int64_t ended_count, ended_room;
    uint64_t *said, *said_before; /* [counts] sorted hashes of the warnings of this scan, and of the last one */
    int64_t said_count, said_room, said_before_count;
};

/* Claims the folder and makes running/, done/ and failed/, as far as that is possible now. Free with inbox_close, after
 * an error too. */
struct error inbox_open(struct inbox *b, const char *folder);
void inbox_close(struct inbox *b);

/* Which of the four folders PATH leads to: "running", "done", "failed", "." for the whole, or NULL for none. */
const char *inbox_part(struct inbox *b, const char *path);

/* Whether running/, done/ or failed/ has this name. */
bool inbox_has_part(const char *name);

/* Begins a scan: jobs that have ended and whose files could not be moved are tried again. An error only if the folder
 * was removed. */
struct error inbox_begin_scan(struct inbox *b);

/* The names of the jobs that are in running/ and have not ended, or, if `waiting`, of those that are not there yet.
 * Folders and hidden files are no jobs. False, without names, if that cannot be found out now; else free them with
 * folder_list_free. */
bool inbox_list(struct inbox *b, bool waiting, char ***names, int64_t *count);

/* Moves a job that waits to running/. False if that cannot be done now. */
bool inbox_take(struct inbox *b, const char *name);

/* Reads a job's file in running/, and the time of its last change, in seconds since 1970. ERROR_BAD_INPUT: the file is
 * at fault. *text is NULL without an error if there is nothing to do: it vanished, or cannot be read now. Free *text
 * with memory_free. */
struct error inbox_read(struct inbox *b, const char *name, char **text, int64_t *size, double *modified);

/* The job has ended: its file goes from running/ to done/ or, if there is a reason, with that to failed/; if that cannot
 * be done now, later. */
struct error inbox_end(struct inbox *b, const char *name, const char *reason);

#endif
