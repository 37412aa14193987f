#include "files/whole_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* -------------------------------------------------------------------------------- removing */

static struct error remove_entry(int parent, const char *name, const char *path);

static struct error empty_folder(int folder, const char *path)
{
    char **names;
    int64_t count;
    TRY(folder_list_at(folder, path, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        e = remove_entry(folder, names[i], path);
    folder_list_free(names, count);
    return e;
}

/* A file, a link, or a folder with all that it holds; links are not followed. */
static struct error remove_entry(int parent, const char *name, const char *path)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return ok();
    if (errno != EISDIR && errno != EPERM)
        return error_errno("remove", path);
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return error_errno("remove", path);
    struct error e = empty_folder(folder, path);
    close(folder);
    TRY(e);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 ? ok() : error_errno("remove", path);
}

static struct error remove_tree(const char *path)
{
    return remove_entry(AT_FDCWD, path, path);
}

/* -------------------------------------------------------------------------------- names */

/* The folder's path without links, or, if there is none yet, its folder's, which is made, with its name. */
static struct error find_path(char out[PATH_SIZE], const char *path)
{
    char real[PATH_MAX], whole[PATH_SIZE], parent[PATH_SIZE];
    enum path_kind kind;
    TRY(path_look(path, &kind));
    if (kind == PATH_FILE)
        return error_input("%s: is a file, expected a folder", path);
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (length == 0 || length >= sizeof whole)
        return error_input("%s: is %s", path, length == 0 ? "an empty path" : "too long a path");
    if (kind == PATH_FOLDER) {
        if (!realpath(path, real))
            return error_errno("look at", path);
        return snprintf(out, PATH_SIZE, "%s", real) < PATH_SIZE ? ok() : error_input("%s: is too long a path", path);
    }
    snprintf(whole, sizeof whole, "%.*s", (int)length, path);
    const char *name = path_name(whole);
    snprintf(parent, sizeof parent, "%.*s", name > whole ? (int)(name - whole) : 1, name > whole ? whole : ".");
    TRY(folder_make(parent));
    return path_join(out, parent, name);
}

/* A folder that something is mounted on cannot be renamed. */
static struct error check_mount(const char *path)
{
    struct stat inside, outside;
    char above[PATH_SIZE];
    TRY(path_join(above, path, ".."));
    if (stat(path, &inside) != 0)
        return ok(); // it is new
    if (stat(above, &outside) != 0)
        return error_errno("look at", above);
    return inside.st_dev == outside.st_dev && inside.st_ino != outside.st_ino
               ? ok()
               : error_input("%s: is a mount point; name a new folder in it", path);
}

/* ".NAME.zoodip-new" beside the folder, or ".NAME.HOST.zoodip-new". */
static struct error name_beside(char out[PATH_SIZE], const char *path, const char *host, const char *ending)
{
    const char *name = path_name(path);
    int length = snprintf(out, PATH_SIZE, "%.*s.%.200s%s%.40s.zoodip-%s", (int)(name - path), path, name,
                          *host ? "." : "", host, ending);
    return length < PATH_SIZE ? ok() : error_input("%s: is too long a path", path);
}

static struct error find_names(struct whole_folder *f, const char *path, const char *host)
{
    TRY(find_path(f->path, path));
    TRY(check_mount(f->path));
    TRY(name_beside(f->temporary, f->path, host, "new"));
    return name_beside(f->old, f->path, host, "old");
}

/* -------------------------------------------------------------------------------- writing */

static struct error begin_again(const struct whole_folder *f)
{
    if (folder_exists(f->old) && !folder_exists(f->path) && rename(f->old, f->path) != 0)
        return error_errno("put back", f->old);
    TRY(remove_tree(f->old));
    int folder = open(f->temporary, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return error_errno("open", f->temporary);
    struct error e = empty_folder(folder, f->temporary);
    close(folder);
    return e;
}

struct error whole_folder_begin(struct whole_folder *f, const char *path, const char *host, double wait)
{
    *f = (struct whole_folder){0};
    f->first_stays = *host != 0;
    TRY(find_names(f, path, host));
    TRY(folder_make(f->temporary));
    TRY(claim_folder(&f->claim, f->temporary, wait));
    struct error e = claim_check(&f->claim, f->temporary); // whom we waited for may have removed it
    if (e.code == ERROR_NONE)
        e = begin_again(f);
    if (e.code != ERROR_NONE)
        claim_release(&f->claim);
    return e;
}

/* Without RENAME_EXCHANGE. */
static struct error replace_in_two(const struct whole_folder *f)
{
    if (rename(f->path, f->old) != 0)
        return error_errno("replace", f->path);
    if (rename(f->temporary, f->path) == 0)
        return ok();
    struct error e = error_errno("write", f->path);
    rename(f->old, f->path); // if even this fails, the next begin does it
    return e;
}

/* Afterwards an older folder has the temporary's name, or the old one's. */
static struct error replace(const struct whole_folder *f)
{
    if (rename(f->temporary, f->path) == 0) // there was none, or an empty one
        return ok();
    if (errno != ENOTEMPTY && errno != EEXIST)
        return error_errno("write", f->path);
    if (f->first_stays)
        return ok();
    if (renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, RENAME_EXCHANGE) == 0)
        return ok();
    return errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP ? replace_in_two(f)
                                                                     : error_errno("write", f->path);
}

struct error whole_folder_end(struct whole_folder *f, bool good)
{
    struct error e = good ? replace(f) : ok();
    if (good && e.code == ERROR_NONE)
        e = folder_sync_of(f->path);
    struct error removed = remove_tree(f->temporary);
    if (good && e.code == ERROR_NONE)
        removed = error_first(removed, remove_tree(f->old));
    claim_release(&f->claim);
    return error_first(e, removed);
}
