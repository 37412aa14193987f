#include "zo/previous.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files/file.h"
#include "zo/checkpoint.h"

/* -------------------------------------------------------------------------------- names */

/* What a run writes; # stands for digits. */
struct item {
    const char *part; /* the folder's subfolder */
    const char *name;
    bool counts; /* whether it is a result by itself */
};

static const struct item items[] = {
    {"", "learned_embeds.safetensors", true},
    {"", "learned_embeds-last.safetensors", true},
    {"", "learned_embeds-emb_params.safetensors", true},
    {"", "learned_embeds-steps-#.safetensors", true},
    {"", "metrics.jsonl", true},
    {"", "loss.png", true},
    {"", "grid.png", true},
    {"", "report.html", true},
    {"", "thumbnail.jpg", false},
    {"", "events.out.tfevents.#.zoodip", false},
    {"", "log.txt", false},
    {"", "job.json", false},
    {"", "status.json", false},
    {"checkpoints", "step-#.safetensors", true},
    {"samples", "step-#-#.png", true},
};

static const char *const parts[] = {"", "checkpoints", "samples"};

enum { ITEMS = sizeof items / sizeof *items, PARTS = sizeof parts / sizeof *parts };

static bool is_named(const char *name, const char *pattern)
{
    for (; *pattern; pattern++) {
        size_t digits = *pattern == '#' ? strspn(name, "0123456789") : *name == *pattern;
        if (digits == 0)
            return false;
        name += digits;
    }
    return *name == 0;
}

static const struct item *find_item(const char *part, const char *name)
{
    for (int i = 0; i < ITEMS; i++)
        if (strcmp(items[i].part, part) == 0 && is_named(name, items[i].name))
            return &items[i];
    return NULL;
}

static bool is_part(const char *name)
{
    for (int i = 1; i < PARTS; i++)
        if (strcmp(name, parts[i]) == 0)
            return true;
    return false;
}

/* A disk that does not answer may hold results: only what is known to be none counts as none. */
static struct error disk_error(const char *path)
{
    bool absent = errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
    return absent ? ok() : error_errno("look into the folder", path);
}

static struct error has(int folder, const char *path, const char *name, bool *found)
{
    struct stat status;
    *found = folder >= 0 && fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
    return *found || folder < 0 ? ok() : disk_error(path);
}

/* A file that a run wrote, or a link that somebody put in its place, or in that of a subfolder. A log.txt without
 * job.json may be anybody's: a queue writes both. */
static struct error find_ours(int folder, const char *path, const char *part, const char *name, bool *ours)
{
    struct stat status;
    *ours = false;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return disk_error(path);
    bool link = S_ISLNK(status.st_mode);
    *ours = find_item(part, name) ? link || S_ISREG(status.st_mode) : link && !*part && is_part(name);
    return *ours && strcmp(name, "log.txt") == 0 ? has(folder, path, "job.json", ours) : ok();
}

/* -------------------------------------------------------------------------------- files */

/* A subfolder, or -1. */
static int open_part(int folder, const char *part, int flags)
{
    return openat(folder, *part ? part : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
}

struct visit {
    const char *path; /* of the folder, for errors */
    const char *part;
    int folder; /* of the part */
    const char *name;
    void *arg;
};

/* Calls one(visit) for each file of a part that a run wrote, log.txt before job.json. */
static struct error visit_part(struct visit *v, struct error (*one)(const struct visit *visit))
{
    char **names;
    int64_t count;
    TRY(folder_list_at(v->folder, v->path, &names, &count));
    struct error e = ok();
    for (int64_t i = count - 1; i >= 0 && e.code == ERROR_NONE; i--) {
        bool ours;
        v->name = names[i];
        e = find_ours(v->folder, v->path, v->part, names[i], &ours);
        if (e.code == ERROR_NONE && ours)
            e = one(v);
    }
    folder_list_free(names, count);
    return e;
}

/* A part that is a link is itself one of the folder's files: what it leads to is neither moved nor removed. */
static struct error visit_all(int folder, const char *path, struct error (*one)(const struct visit *visit), void *arg)
{
    for (int i = 0; i < PARTS; i++) {
        struct visit v = {.path = path, .part = parts[i], .arg = arg};
        v.folder = open_part(folder, parts[i], O_NOFOLLOW);
        struct error e = v.folder < 0 ? disk_error(path) : visit_part(&v, one);
        if (v.folder >= 0)
            close(v.folder);
        TRY(e);
    }
    return ok();
}

/* "cannot WHAT PATH/PART/NAME". */
static struct error visit_error(const struct visit *v, const char *what)
{
    int why = errno;
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%.3000s/%s%s%.300s", v->path, v->part, *v->part ? "/" : "", v->name);
    errno = why;
    return error_errno(what, path);
}

static struct error remove_file(const struct visit *v)
{
    return unlinkat(v->folder, v->name, 0) == 0 || errno == ENOENT ? ok() : visit_error(v, "remove");
}

/* arg: the folder that it goes to. */
static struct error move_file(const struct visit *v)
{
    int previous = *(const int *)v->arg;
    bool made = !*v->part || mkdirat(previous, v->part, 0777) == 0 || errno == EEXIST;
    int to = made ? open_part(previous, v->part, O_NOFOLLOW) : -1;
    bool moved = to >= 0 && renameat(v->folder, v->name, to, v->name) == 0;
    struct error e = moved && folder_sync(to) ? ok() : visit_error(v, "move");
    if (to >= 0)
        close(to);
    return e;
}

/* Those that are empty. */
static void remove_parts(int folder)
{
    for (int i = 1; i < PARTS; i++)
        unlinkat(folder, parts[i], AT_REMOVEDIR);
}

static struct error part_holds(int folder, const char *path, const char *part, bool any, bool *found)
{
    char **names = NULL;
    int64_t count = 0;
    struct error e = folder_list_at(folder, path, &names, &count);
    for (int64_t k = 0; k < count && !*found && e.code == ERROR_NONE; k++) {
        const struct item *item = find_item(part, names[k]);
        struct stat status;
        *found = item && any;
        if (!item || any || !item->counts)
            continue;
        if (fstatat(folder, names[k], &status, 0) == 0)
            *found = S_ISREG(status.st_mode) && status.st_size > 0;
        else
            e = disk_error(path);
    }
    folder_list_free(names, count);
    return e;
}

/* Does an open folder hold results, or, with `any`, any file of a run's? Links are followed, as a run that resumes
 * does. */
static struct error holds(int folder, const char *path, bool any, bool *found)
{
    *found = false;
    for (int i = 0; i < PARTS && !*found; i++) {
        int part = open_part(folder, parts[i], 0);
        struct error e = part < 0 ? disk_error(path) : part_holds(part, path, parts[i], any, found);
        if (part >= 0)
            close(part);
        TRY(e);
    }
    return ok();
}

/* -------------------------------------------------------------------------------- previous/ */

enum phase { MOVING, MOVED, REMOVING, ABSENT };

static const char *const phase_files[] = {".moving", ".moved", ".removing"};

struct place {
    char previous_path[PATH_SIZE];
    int folder, previous; /* -1: there is none, or it is none of a run's */
    enum phase phase;
};

static void close_place(const struct place *p)
{
    if (p->previous >= 0)
        close(p->previous);
    close(p->folder);
}

static struct error find_phase(struct place *p)
{
    bool found = false;
    p->previous = open_part(p->folder, "previous", O_NOFOLLOW);
    if (p->previous < 0)
        TRY(disk_error(p->previous_path));
    for (p->phase = MOVING; p->phase < ABSENT; p->phase++) {
        TRY(has(p->previous, p->previous_path, phase_files[p->phase], &found));
        if (found)
            break;
    }
    return ok();
}

static struct error open_place(struct place *p, const char *folder)
{
    TRY(path_join(p->previous_path, folder, "previous"));
    p->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->folder < 0)
        return error_errno("open", folder);
    struct error e = find_phase(p);
    if (e.code != ERROR_NONE)
        close_place(p);
    return e;
}

/* The file that says the phase is on the disk before anything else follows. */
static struct error set_phase(struct place *p, enum phase phase)
{
    const char *name = phase_files[phase];
    bool done;
    if (phase == MOVING) {
        int file = openat(p->previous, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        done = file >= 0 && close(file) == 0;
    } else {
        done = renameat(p->previous, phase_files[p->phase], p->previous, name) == 0;
    }
    if (!done || !folder_sync(p->previous) || !folder_sync(p->folder))
        return error_errno("write in", p->previous_path);
    p->phase = phase;
    return ok();
}

static struct error finish_move(struct place *p, const char *path)
{
    TRY(visit_all(p->folder, path, move_file, &p->previous));
    remove_parts(p->folder);
    return folder_sync(p->folder) ? set_phase(p, MOVED) : error_errno("write in", path);
}

/* Files that somebody else put there stay, and the folder with them. */
static struct error finish_removal(struct place *p)
{
    TRY(visit_all(p->previous, p->previous_path, remove_file, NULL));
    remove_parts(p->previous);
    if (unlinkat(p->previous, phase_files[p->phase], 0) != 0)
        return error_errno("remove", p->previous_path);
    p->phase = ABSENT;
    unlinkat(p->folder, "previous", AT_REMOVEDIR);
    close(p->previous);
    p->previous = open_part(p->folder, "previous", O_NOFOLLOW);
    return ok();
}

static struct error remove_previous(struct place *p)
{
    if (p->phase == MOVED)
        TRY(set_phase(p, REMOVING));
    return finish_removal(p);
}

static struct error announce(struct place *p)
{
    if (p->previous < 0 && mkdirat(p->folder, "previous", 0777) == 0)
        p->previous = open_part(p->folder, "previous", O_NOFOLLOW);
    if (p->previous < 0)
        return error_errno("make the folder", p->previous_path);
    return set_phase(p, MOVING);
}

static struct error begin_move(struct place *p, const char *path)
{
    TRY(announce(p));
    return finish_move(p, path);
}

/* What is in previous/ is given up only for a run that has a checkpoint. */
static struct error overwrite(struct place *p, const char *path)
{
    char checkpoints[PATH_SIZE];
    TRY(path_join(checkpoints, path, "checkpoints"));
    if (p->phase == MOVED && !checkpoint_any(checkpoints)) {
        TRY(visit_all(p->folder, path, remove_file, NULL));
        remove_parts(p->folder);
        return ok();
    }
    if (p->phase == MOVED)
        TRY(remove_previous(p));
    bool results;
    TRY(holds(p->folder, path, false, &results));
    return results ? begin_move(p, path) : ok();
}

static struct error check(const struct place *p, const char *path, enum start start)
{
    bool waits = p->phase == MOVING || p->phase == MOVED, results, theirs = false;
    TRY(holds(p->folder, path, false, &results));
    if (start == START_NEW && waits)
        return error_input("%s: holds results that --overwrite moves to previous/; continue with --resume, or begin "
                           "anew with --overwrite",
                           path);
    if (start == START_NEW && results)
        return error_input("%s: holds results of an earlier run; continue them with --resume, or replace them with "
                           "--overwrite",
                           path);
    if (p->phase == ABSENT)
        TRY(p->previous < 0 ? has(p->folder, path, "previous", &theirs)
                            : holds(p->previous, p->previous_path, true, &theirs));
    if (start == START_OVERWRITE && results && theirs)
        return error_input("%s: --overwrite puts old results there, and has not made this one: give it another name",
                           p->previous_path);
    return ok();
}

static struct error begin(struct place *p, const char *path, enum start start)
{
    TRY(check(p, path, start));
    if (p->phase == MOVING)
        TRY(finish_move(p, path));
    if (p->phase == REMOVING)
        TRY(finish_removal(p));
    return start == START_OVERWRITE ? overwrite(p, path) : ok();
}

/* -------------------------------------------------------------------------------- for runs */

bool previous_found(const char *folder)
{
    struct place p;
    if (open_place(&p, folder).code != ERROR_NONE)
        return false;
    bool results, found = p.phase == MOVING || p.phase == MOVED;
    found = found || holds(p.folder, folder, false, &results).code != ERROR_NONE || results;
    close_place(&p);
    return found;
}

struct error previous_check(const char *folder, enum start start)
{
    struct place p;
    TRY(open_place(&p, folder));
    struct error e = check(&p, folder, start);
    close_place(&p);
    return e;
}

struct error previous_announce(const char *folder, bool *announced)
{
    struct place p;
    bool results;
    *announced = false;
    TRY(open_place(&p, folder));
    struct error e = check(&p, folder, START_OVERWRITE);
    if (e.code == ERROR_NONE)
        e = holds(p.folder, folder, false, &results);
    if (e.code == ERROR_NONE && results && p.phase == ABSENT) {
        e = announce(&p);
        *announced = e.code == ERROR_NONE;
    }
    close_place(&p);
    return e;
}

void previous_withdraw(const char *folder)
{
    struct place p;
    if (open_place(&p, folder).code != ERROR_NONE)
        return;
    if (p.phase == MOVING && unlinkat(p.previous, phase_files[MOVING], 0) == 0)
        unlinkat(p.folder, "previous", AT_REMOVEDIR);
    close_place(&p);
}

struct error previous_begin(const char *folder, enum start start)
{
    struct place p;
    TRY(open_place(&p, folder));
    struct error e = begin(&p, folder, start);
    close_place(&p);
    return e;
}

struct error previous_remove(const char *folder)
{
    struct place p;
    TRY(open_place(&p, folder));
    struct error e = p.phase == MOVED || p.phase == REMOVING ? remove_previous(&p) : ok();
    close_place(&p);
    return e;
}

static bool is_in_phase(const char *folder, enum phase phase)
{
    struct place p;
    if (open_place(&p, folder).code != ERROR_NONE)
        return false;
    close_place(&p);
    return p.phase == phase;
}

bool previous_given_up(const char *folder)
{
    return is_in_phase(folder, MOVING);
}

bool previous_kept(const char *folder)
{
    return is_in_phase(folder, MOVED);
}
