#include "pipeline/fingerprint.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "files/file.h"

enum { MARKS = 8, PIECE = 1 << 16 };

struct error alike_check(struct comm *comm, const struct mark *marks, int64_t count)
{
    uint32_t first[MARKS];
    for (int64_t i = 0; i < count; i++)
        first[i] = marks[i].value;
    TRY(comm_broadcast(comm, first, count * (int64_t)sizeof *first, 0));
    char differ[400] = "";
    for (int64_t i = 0; i < count; i++) {
        size_t used = strlen(differ);
        if (first[i] != marks[i].value)
            snprintf(differ + used, sizeof differ - used, "%s%s", used ? ", " : "", marks[i].what);
    }
    struct error e = ok();
    if (differ[0])
        e = error_input("rank %d reads other data than rank 0: %s differs; expected a file system that all nodes share",
                        comm_rank(comm), differ);
    return comm_agree(comm, e);
}

uint32_t mark_bytes(uint32_t mark, const void *data, int64_t bytes)
{
    return (uint32_t)crc32_z(mark, data, (size_t)bytes);
}

uint32_t mark_text(uint32_t mark, const char *text)
{
    return mark_bytes(mark, text, (int64_t)strlen(text) + 1);
}

static uint32_t mark_file(uint32_t mark, const char *path)
{
    char piece[PIECE];
    int file;
    int64_t size;
    if (file_open(path, &file, &size).code != ERROR_NONE)
        return mark;
    mark = mark_bytes(mark, &size, sizeof size);
    for (ssize_t got; (got = read(file, piece, sizeof piece)) > 0;)
        mark = mark_bytes(mark, piece, got);
    close(file);
    return mark;
}

static uint32_t mark_folder(uint32_t mark, const char *folder)
{
    char **names;
    int64_t count;
    if (folder_list(folder, &names, &count).code != ERROR_NONE)
        return mark;
    for (int64_t i = 0; i < count; i++) {
        char path[4096];
        if (*names[i] == '.' || path_join(path, folder, names[i]).code != ERROR_NONE)
            continue;
        mark = mark_file(mark_text(mark, names[i]), path);
    }
    folder_list_free(names, count);
    return mark;
}

uint32_t mark_model(const char *folder)
{
    static const char *const parts[] = {"text_encoder", "unet", "vae", "tokenizer", "scheduler"};
    uint32_t mark = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[4096];
        if (path_join(path, folder, parts[i]).code == ERROR_NONE)
            mark = mark_folder(mark_text(mark, parts[i]), path);
    }
    return mark;
}
