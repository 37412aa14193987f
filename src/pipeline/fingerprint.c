#include "pipeline/fingerprint.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "files/file.h"

enum { LIMIT = 8, PIECE = 1 << 16 };

struct error fingerprint_compare(struct comm *comm, const struct fingerprint *fingerprints, int64_t count)
{
    uint32_t first[LIMIT];
    for (int64_t i = 0; i < count; i++)
        first[i] = fingerprints[i].value;
    TRY(comm_broadcast(comm, first, count * (int64_t)sizeof *first, 0));
    char differ[400] = "";
    for (int64_t i = 0; i < count; i++) {
        size_t used = strlen(differ);
        if (first[i] != fingerprints[i].value)
            snprintf(differ + used, sizeof differ - used, "%s%s", used ? ", " : "", fingerprints[i].what);
    }
    struct error e = ok();
    if (differ[0])
        e = error_input("rank %d reads other data than rank 0: %s differs; expected a file system that all nodes share",
                        comm_rank(comm), differ);
    return comm_agree(comm, e);
}

uint32_t fingerprint_bytes(uint32_t crc, const void *data, int64_t bytes)
{
    return (uint32_t)crc32_z(crc, data, (size_t)bytes);
}

uint32_t fingerprint_text(uint32_t crc, const char *text)
{
    return fingerprint_bytes(crc, text, (int64_t)strlen(text) + 1);
}

static uint32_t fingerprint_file(uint32_t crc, const char *path)
{
    char piece[PIECE];
    int file;
    int64_t size;
    if (file_open(path, &file, &size).code != ERROR_NONE)
        return crc;
    crc = fingerprint_bytes(crc, &size, sizeof size);
    for (ssize_t got; (got = read(file, piece, sizeof piece)) > 0;)
        crc = fingerprint_bytes(crc, piece, got);
    close(file);
    return crc;
}

static uint32_t fingerprint_folder(uint32_t crc, const char *folder)
{
    char **names;
    int64_t count;
    if (folder_list(folder, &names, &count).code != ERROR_NONE)
        return crc;
    for (int64_t i = 0; i < count; i++) {
        char path[PATH_SIZE];
        if (*names[i] == '.' || path_join(path, folder, names[i]).code != ERROR_NONE)
            continue;
        crc = fingerprint_file(fingerprint_text(crc, names[i]), path);
    }
    folder_list_free(names, count);
    return crc;
}

uint32_t fingerprint_model(const char *folder)
{
    static const char *const parts[] = {"text_encoder", "unet", "vae", "tokenizer", "scheduler"};
    uint32_t crc = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[PATH_SIZE];
        if (path_join(path, folder, parts[i]).code == ERROR_NONE)
            crc = fingerprint_folder(fingerprint_text(crc, parts[i]), path);
    }
    return crc;
}
