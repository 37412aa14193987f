#include "files/photos.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"

#define ENDINGS ".png, .jpg, .jpeg, .jfif"

static bool has_picture_ending(const char *name)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg", ".jfif"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

/* Hidden files, and others that file managers leave beside pictures. */
static bool is_left_behind(const char *name)
{
    return *name == '.' || strcasecmp(name, "Thumbs.db") == 0 || strcasecmp(name, "desktop.ini") == 0;
}

static struct error add_path(char **paths, int64_t *count, const char *path)
{
    paths[*count] = memory_string(path);
    return paths[(*count)++] ? ok() : error_memory("the list of pictures");
}

/* A file that is not used, or a folder. */
static void note_unused(struct text_few *unused, const char *name, bool folder)
{
    char shown[PATH_SIZE];
    snprintf(shown, sizeof shown, "%s%s", name, folder ? "/" : "");
    text_few_add(unused, shown);
}

static struct error sort_out(const struct config *config, const char *folder, char **names, int64_t name_count,
                             char **paths, int64_t *count, struct text_few *unused)
{
    for (int64_t i = 0; i < name_count; i++) {
        char path[PATH_SIZE];
        if (is_left_behind(names[i]))
            continue;
        enum path_kind kind;
        TRY(path_join(path, folder, names[i]));
        TRY(path_look(path, &kind));
        if (kind != PATH_FOLDER && has_picture_ending(names[i]))
            TRY(add_path(paths, count, path));
        else if (!config->data.captions || !path_same(path, config->data.captions))
            note_unused(unused, names[i], kind == PATH_FOLDER);
    }
    return ok();
}

static struct error list_folder(const struct config *config, const char *folder, char ***paths, int64_t *count,
                                struct text_few *unused)
{
    char **names;
    int64_t name_count;
    TRY(folder_list(folder, &names, &name_count));
    *paths = memory_alloc(name_count, sizeof **paths);
    struct error e = *paths ? sort_out(config, folder, names, name_count, *paths, count, unused)
                            : error_memory("the list of pictures");
    folder_list_free(names, name_count);
    TRY(e);
    text_few_end(unused);
    return *count ? ok()
                  : error_input("\"%.150s\": no pictures here (" ENDINGS ")%s%s", folder,
                                unused->count ? ", only " : "", unused->text);
}

static struct error list_files(const struct texts *images, char ***paths, int64_t *count)
{
    *paths = memory_alloc(images->count, sizeof **paths);
    if (!*paths)
        return error_memory("the list of pictures");
    for (int64_t i = 0; i < images->count; i++) {
        enum path_kind kind;
        TRY(path_look(images->items[i], &kind));
        if (kind == PATH_FOLDER)
            return error_input("\"%.300s\": is a folder; expected a single folder, or a list of files",
                               images->items[i]);
        if (kind != PATH_FILE)
            return error_input("\"%.300s\": no such file or folder", images->items[i]);
        TRY(add_path(*paths, count, images->items[i]));
    }
    return ok();
}

struct error photos_list(const struct config *config, char ***paths, int64_t *count, struct text_few *unused)
{
    *unused = (struct text_few){0};
    const struct texts *images = &config->data.images;
    enum path_kind kind;
    struct error e = path_look(images->items[0], &kind);
    if (e.code == ERROR_NONE)
        e = images->count == 1 && kind == PATH_FOLDER ? list_folder(config, images->items[0], paths, count, unused)
                                                      : list_files(images, paths, count);
    return config_blame(config, "data.images", e);
}

struct error photos_check(const struct config *config)
{
    char **paths = NULL;
    int64_t count = 0;
    struct text_few unused;
    struct error e = photos_list(config, &paths, &count, &unused);
    folder_list_free(paths, count);
    return e;
}

void photos_warn_unused(const struct config *config, const struct text_few *unused)
{
    struct error e =
        error_input("\"%.150s\": not used: %s; pictures are " ENDINGS, config->data.images.items[0], unused->text);
    log_warning("%s", config_blame(config, "data.images", e).text);
}
