#include "queue/inbox.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

enum { FILE_LIMIT = 16 << 20 };

static const char *const part_names[] = {"running", "done", "failed"};

/* -------------------------------------------------------------------------------- what was said */

static uint64_t hash_of(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3;
    return hash;
}

/* The place of the first that is not smaller. */
static int64_t place_of(const uint64_t *sorted, int64_t count, uint64_t value)
{
    int64_t low = 0;
    while (low < count) {
        int64_t middle = low + (count - low) / 2;
        if (sorted[middle] < value)
            low = middle + 1;
        else
            count = middle;
    }
    return low;
}

static bool is_among(const uint64_t *sorted, int64_t count, uint64_t value)
{
    int64_t at = place_of(sorted, count, value);
    return at < count && sorted[at] == value;
}

/* A warning that is repeated only after it was not given during a whole scan. */
static void warn(struct inbox *b, struct error e)
{
    uint64_t hash = hash_of(e.text);
    if (is_among(b->said, b->said_count, hash))
        return;
    if (!is_among(b->said_before, b->said_before_count, hash))
        log_warning("%s", e.text);
    uint64_t *more = memory_grow(b->said, b->said_count, &b->said_room, sizeof *more);
    if (!more)
        return; // it may be said again
    int64_t at = place_of(more, b->said_count, hash);
    memmove(more + at + 1, more + at, (size_t)(b->said_count - at) * sizeof *more);
    more[at] = hash;
    b->said = more;
    b->said_count++;
}

static void forget_older_warnings(struct inbox *b)
{
    memory_free(b->said_before);
    b->said_before = b->said;
    b->said_before_count = b->said_count;
    b->said = NULL;
    b->said_count = b->said_room = 0;
}

/* -------------------------------------------------------------------------------- the folders */

static struct error enter(struct inbox *b, const char *part, struct held *held);

/* What is in place of a folder of ours goes to failed/. It is first renamed where it is, since failed/ itself may be
 * what has to be made. */
static struct error set_aside(struct inbox *b, const char *part)
{
    char hidden[32], file[32], reason[300];
    struct held failed = {.descriptor = -1};
    bool link = held_look(&b->root, part, NULL) == HELD_LINK;
    snprintf(hidden, sizeof hidden, ".aside-%s", part);
    snprintf(file, sizeof file, "%s.txt", part);
    snprintf(reason, sizeof reason, "%s: is a %s, expected a folder; it was set aside\n", part, link ? "link" : "file");
    TRY(held_move(&b->root, part, &b->root, hidden));
    log_warning("%s/%.*s in failed/", b->root.path, (int)strlen(reason) - 1, reason);
    struct error e = enter(b, "failed", &failed);
    if (e.code == ERROR_NONE)
        e = held_write(&failed, file, reason);
    if (e.code == ERROR_NONE)
        e = held_move(&b->root, hidden, &failed, part);
    held_close(&failed);
    if (e.code != ERROR_NONE)
        log_warning("%s; it is still %s/%s", e.text, b->root.path, hidden);
    return ok();
}

/* Opens one of running/, done/ and failed/; makes it if it is missing. */
static struct error enter(struct inbox *b, const char *part, struct held *held)
{
    struct error e = held_enter(held, &b->root, part);
    if (e.code == ERROR_NONE)
        return ok();
    enum held_kind kind = held_look(&b->root, part, NULL);
    if (kind == HELD_NOTHING || kind == HELD_FOLDER)
        return e;
    TRY(set_aside(b, part));
    return held_enter(held, &b->root, part);
}

/* Makes those that are missing, and sets aside what is in place of one. */
static void open_parts(struct inbox *b)
{
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++) {
        struct held held;
        struct error e = enter(b, part_names[i], &held);
        if (e.code != ERROR_NONE)
            warn(b, e);
        held_close(&held);
    }
}

/* Who makes such a link wants it to be followed, so it is refused while someone is watching. */
static struct error refuse_links(const struct inbox *b)
{
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++)
        if (held_look(&b->root, part_names[i], NULL) == HELD_LINK)
            return error_input("%s/%s: is a link; expected a folder, so that nothing leads out of the spool",
                               b->root.path, part_names[i]);
    return ok();
}

struct error inbox_open(struct inbox *b, const char *folder)
{
    *b = (struct inbox){.root.descriptor = -1};
    enum path_kind kind;
    TRY(error_in(path_look(folder, &kind), "--spool"));
    if (kind != PATH_FOLDER)
        return error_input("--spool: %s: no such folder", folder);
    TRY(held_open(&b->root, folder));
    TRY(claim_folder(&b->claim, folder, 1));
    TRY(refuse_links(b));
    open_parts(b);
    return ok();
}

static void free_ended(struct ended_job *j)
{
    memory_free(j->name);
    memory_free(j->reason);
}

void inbox_close(struct inbox *b)
{
    for (int64_t i = 0; i < b->ended_count; i++)
        free_ended(&b->ended[i]);
    memory_free(b->ended);
    memory_free(b->said);
    memory_free(b->said_before);
    claim_release(&b->claim);
    held_close(&b->root);
}

const char *inbox_part(struct inbox *b, const char *path)
{
    const char *found = NULL;
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names && !found; i++) {
        struct held held;
        if (enter(b, part_names[i], &held).code == ERROR_NONE && path_is_of(path, held.descriptor))
            found = part_names[i];
        held_close(&held);
    }
    return path_is_of(path, b->root.descriptor) ? "." : found;
}

bool inbox_has_part(const char *name)
{
    for (size_t i = 0; i < sizeof part_names / sizeof *part_names; i++)
        if (strcmp(name, part_names[i]) == 0)
            return true;
    return false;
}

/* -------------------------------------------------------------------------------- jobs that have ended */

static void say_removed(const struct held *held, const char *file)
{
    log_warning("%s/%s: was removed by another program", held->path, file);
}

static struct error move_ended(struct held *running, struct held *to, const struct ended_job *j)
{
    char file[PATH_SIZE], text[600];
    snprintf(file, sizeof file, "%s.txt", j->name);
    snprintf(text, sizeof text, "%s\n", j->reason ? j->reason : "");
    if (j->reason)
        TRY(held_write(to, file, text));
    snprintf(file, sizeof file, "%s.json", j->name);
    return held_move(running, file, to, file);
}

/* An error: it cannot be moved now. */
static struct error settle(struct inbox *b, const struct ended_job *j)
{
    char file[PATH_SIZE];
    struct held running, to = {.descriptor = -1};
    snprintf(file, sizeof file, "%s.json", j->name);
    struct error e = enter(b, "running", &running);
    bool removed = e.code == ERROR_NONE && held_look(&running, file, NULL) == HELD_NOTHING;
    if (removed)
        say_removed(&running, file);
    else if (e.code == ERROR_NONE)
        e = enter(b, j->reason ? "failed" : "done", &to);
    if (!removed && e.code == ERROR_NONE)
        e = move_ended(&running, &to, j);
    held_close(&running);
    held_close(&to);
    return e;
}

static void settle_all(struct inbox *b)
{
    int64_t left = 0;
    for (int64_t i = 0; i < b->ended_count; i++) {
        struct error e = settle(b, &b->ended[i]);
        if (e.code == ERROR_NONE) {
            free_ended(&b->ended[i]);
            continue;
        }
        warn(b, e);
        b->ended[left++] = b->ended[i];
    }
    b->ended_count = left;
}

struct error inbox_end(struct inbox *b, const char *name, const char *reason)
{
    struct ended_job *more = memory_grow(b->ended, b->ended_count, &b->ended_room, sizeof *more);
    if (!more)
        return error_memory("a job");
    b->ended = more;
    struct ended_job *j = &more[b->ended_count];
    *j = (struct ended_job){memory_string(name), reason ? memory_string(reason) : NULL};
    if (!j->name || (reason && !j->reason)) {
        free_ended(j);
        return error_memory("a job");
    }
    struct error e = settle(b, j);
    if (e.code == ERROR_NONE) {
        free_ended(j);
        return ok();
    }
    warn(b, e);
    b->ended_count++;
    return ok();
}

static bool has_ended(const struct inbox *b, const char *name)
{
    for (int64_t i = 0; i < b->ended_count; i++)
        if (strcmp(b->ended[i].name, name) == 0)
            return true;
    return false;
}

/* -------------------------------------------------------------------------------- files */

struct error inbox_begin_scan(struct inbox *b)
{
    forget_older_warnings(b);
    if (held_is_removed(&b->root))
        return error_failed("%s: was removed by another program", b->root.path);
    open_parts(b);
    settle_all(b);
    return ok();
}

/* Cuts the name of a file to that of its job; false if it is not for us. */
static bool cut_name(char *file)
{
    size_t length = strlen(file), ending = strlen(".json");
    if (*file == '.' || length <= ending || strcmp(file + length - ending, ".json") != 0)
        return false;
    file[length - ending] = 0;
    return true;
}

/* Is this file of `held`, one of the four folders, a job to begin now? running: NULL if that is `held`. Folders stay
 * where they are: a file could not replace them later. */
static bool is_job(struct inbox *b, const struct held *held, const struct held *running, char *file)
{
    char name[PATH_SIZE];
    snprintf(name, sizeof name, "%s", file);
    if (!cut_name(name))
        return false;
    enum held_kind kind = held_look(held, file, NULL);
    if (kind == HELD_FOLDER)
        warn(b, error_input("%s/%s: is a folder, expected a file; it stays there", held->path, file));
    if (kind == HELD_FOLDER || kind == HELD_NOTHING)
        return false;
    return running ? held_look(running, file, NULL) == HELD_NOTHING : !has_ended(b, name);
}

static bool list_jobs(struct inbox *b, const struct held *held, const struct held *running, char ***names,
                      int64_t *count)
{
    int64_t all = 0;
    struct error e = held_list(held, names, &all);
    if (e.code != ERROR_NONE) {
        folder_list_free(*names, all);
        warn(b, e);
        return false;
    }
    for (int64_t i = 0; i < all; i++) {
        char *file = (*names)[i];
        if (is_job(b, held, running, file) && cut_name(file))
            (*names)[(*count)++] = file;
        else
            memory_free(file);
    }
    return true;
}

bool inbox_list(struct inbox *b, bool waiting, char ***names, int64_t *count)
{
    struct held running;
    *names = NULL;
    *count = 0;
    struct error e = enter(b, "running", &running);
    bool listed = e.code == ERROR_NONE;
    if (!listed)
        warn(b, e);
    else if (waiting)
        listed = list_jobs(b, &b->root, &running, names, count);
    else
        listed = list_jobs(b, &running, NULL, names, count);
    held_close(&running);
    return listed;
}

bool inbox_take(struct inbox *b, const char *name)
{
    char file[PATH_SIZE];
    struct held running;
    snprintf(file, sizeof file, "%s.json", name);
    struct error e = enter(b, "running", &running);
    if (e.code == ERROR_NONE)
        e = held_move(&b->root, file, &running, file);
    held_close(&running);
    if (e.code == ERROR_NONE)
        return true;
    if (held_look(&b->root, file, NULL) == HELD_NOTHING)
        say_removed(&b->root, file);
    else
        warn(b, e);
    return false;
}

struct error inbox_read(struct inbox *b, const char *name, char **text, int64_t *size, double *modified)
{
    char file[PATH_SIZE];
    struct held running;
    *text = NULL;
    snprintf(file, sizeof file, "%s.json", name);
    struct error e = enter(b, "running", &running);
    enum held_kind kind = e.code == ERROR_NONE ? held_look(&running, file, modified) : HELD_OTHER;
    if (e.code == ERROR_NONE && kind == HELD_LINK)
        e = error_input("%s/%s: is a link, which is not a regular file", running.path, file);
    if (e.code == ERROR_NONE && kind != HELD_NOTHING)
        e = held_read(&running, file, FILE_LIMIT, text, size);
    if (e.code != ERROR_NONE)
        kind = held_look(&running, file, NULL);
    if (kind == HELD_NOTHING)
        say_removed(&running, file);
    else if (e.code == ERROR_FAILED)
        warn(b, e);
    held_close(&running);
    return e.code == ERROR_BAD_INPUT && kind != HELD_NOTHING ? e : ok();
}
